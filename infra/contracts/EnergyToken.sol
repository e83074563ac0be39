// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {Ownable} from "@openzeppelin/contracts/access/Ownable.sol";
import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";

/// @title A token to pay for energy on test chains
/// @notice 18 decimals; its owner mints as much as a test needs.
contract EnergyToken is ERC20, Ownable {
    constructor(address owner_) ERC20("Energy Token", "ENRG") Ownable(owner_) {}

    function mint(address to, uint256 amount) external onlyOwner {
        _mint(to, amount);
    }
}
