// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {Ownable} from "@openzeppelin/contracts/access/Ownable.sol";
import {Ownable2Step} from "@openzeppelin/contracts/access/Ownable2Step.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {IERC20Metadata} from "@openzeppelin/contracts/token/ERC20/extensions/IERC20Metadata.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {Pausable} from "@openzeppelin/contracts/utils/Pausable.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";

/// @title Escrow and settlement of energy trades
/// @notice Buyers deposit tokens, the operator settles trades that were matched and locked elsewhere, and everybody
/// withdraws what is theirs. Settling only moves escrow from buyer to seller, so it calls no other contract.
/// @dev Invariants: a trade id is paid at most once, ever; the sum of all escrow is `totalEscrow`, and the contract holds
/// at least that many tokens. The owner can pause and name the operator; neither can reach a balance except by `settle`.
/// Tokens whose balances change without a transfer (rebasing) must not be used.
contract EnergySettlement is Ownable2Step, Pausable, ReentrancyGuardTransient {
    using SafeERC20 for IERC20;

    /// @notice A trade to be paid.
    /// @param id The trade's UUID, left-padded to 32 bytes.
    /// @param buyer Whose escrow pays.
    /// @param seller Whose escrow receives.
    /// @param amount In the token's smallest unit.
    /// @param energyWh The energy traded, in watt-hours; only reported.
    /// @param validUntil The last block time (Unix seconds) at which the trade may be paid.
    struct Trade {
        bytes32 id;
        address buyer;
        address seller;
        uint256 amount;
        uint256 energyWh;
        uint64 validUntil;
    }

    /// @notice Why a trade of a batch was not paid by it.
    uint8 public constant ALREADY_SETTLED = 1;
    uint8 public constant INSUFFICIENT_ESCROW = 2;
    uint8 public constant EXPIRED = 3;

    /// @notice Amounts are exact in nano-tokens, so the token needs at least this many decimals.
    uint8 public constant MIN_DECIMALS = 9;

    /// @notice The most trades one call may carry: it bounds the gas of a batch far below a block's.
    uint256 public constant MAX_TRADES = 200;

    /// @notice The token that pays.
    IERC20 public immutable TOKEN;

    /// @notice The only account that may settle.
    address public operator;

    /// @notice What an account may spend or withdraw, in the token's smallest unit.
    mapping(address account => uint256 amount) public escrow;

    /// @notice The sum of all escrow.
    uint256 public totalEscrow;

    /// @notice Whether a trade was paid.
    mapping(bytes32 id => bool paid) public settled;

    event Deposited(address indexed account, uint256 amount);
    event Withdrawn(address indexed account, uint256 amount);
    event TradeSettled(
        bytes32 indexed id, address indexed buyer, address indexed seller, uint256 amount, uint256 energyWh
    );
    event TradeSkipped(bytes32 indexed id, uint8 reason);
    event OperatorChanged(address indexed previous, address indexed current);

    error TooFewDecimals(uint8 decimals);
    error ZeroAddress();
    error ZeroAmount();
    error NotOperator(address caller);
    error EscrowTooLow(uint256 available, uint256 wanted);
    error TooManyTrades(uint256 trades);
    error OwnerRequired();

    /// @param token An ERC-20 with at least 9 decimals.
    /// @param owner_ May pause, unpause, and name the operator.
    /// @param operator_ May settle.
    constructor(address token, address owner_, address operator_) Ownable(owner_) {
        uint8 decimals = IERC20Metadata(token).decimals();
        if (decimals < MIN_DECIMALS) revert TooFewDecimals(decimals);
        TOKEN = IERC20(token);
        _setOperator(operator_);
    }

    /// @notice Put tokens into escrow; approve them first.
    /// @dev Credits what arrived, which is less than `amount` for a token that takes a fee.
    function deposit(uint256 amount) external whenNotPaused nonReentrant {
        uint256 before = TOKEN.balanceOf(address(this));
        TOKEN.safeTransferFrom(msg.sender, address(this), amount);
        uint256 received = TOKEN.balanceOf(address(this)) - before;
        if (received == 0) revert ZeroAmount();
        escrow[msg.sender] += received;
        totalEscrow += received;
        emit Deposited(msg.sender, received);
    }

    /// @notice Take tokens out of escrow. Possible while paused: nobody's money is held by a pause.
    function withdraw(uint256 amount) external nonReentrant {
        if (amount == 0) revert ZeroAmount();
        uint256 available = escrow[msg.sender];
        if (available < amount) revert EscrowTooLow(available, amount);
        unchecked {
            escrow[msg.sender] = available - amount;
            totalEscrow -= amount;
        }
        emit Withdrawn(msg.sender, amount);
        TOKEN.safeTransfer(msg.sender, amount);
    }

    /// @notice Pay a batch of trades. A trade that cannot be paid is skipped with an event and does not undo the others.
    /// @dev An empty batch is allowed: it uses up a nonce.
    function settle(Trade[] calldata trades) external whenNotPaused {
        if (msg.sender != operator) revert NotOperator(msg.sender);
        if (trades.length > MAX_TRADES) revert TooManyTrades(trades.length);
        for (uint256 i = 0; i < trades.length; ++i) {
            Trade calldata trade = trades[i];
            uint8 obstacle = _pay(trade);
            if (obstacle == 0) {
                emit TradeSettled(trade.id, trade.buyer, trade.seller, trade.amount, trade.energyWh);
            } else {
                emit TradeSkipped(trade.id, obstacle);
            }
        }
    }

    /// @notice Which of these trades were paid.
    function areSettled(bytes32[] calldata ids) external view returns (bool[] memory paid) {
        paid = new bool[](ids.length);
        for (uint256 i = 0; i < ids.length; ++i) {
            paid[i] = settled[ids[i]];
        }
    }

    /// @notice Stop deposits and settlement.
    function pause() external onlyOwner {
        _pause();
    }

    /// @notice Let deposits and settlement go on.
    function unpause() external onlyOwner {
        _unpause();
    }

    /// @notice Name the account that may settle.
    function setOperator(address operator_) external onlyOwner {
        _setOperator(operator_);
    }

    /// @notice Refused: without an owner a pause or a stolen operator key would be for good.
    function renounceOwnership() public pure override {
        revert OwnerRequired();
    }

    /// @dev Returns 0 if the trade was paid, else why not. Cannot revert: the subtraction is checked first, and the
    /// addition cannot overflow, since all escrow together is the token's balance.
    function _pay(Trade calldata trade) private returns (uint8) {
        if (settled[trade.id]) return ALREADY_SETTLED;
        if (block.timestamp > trade.validUntil) return EXPIRED;
        uint256 available = escrow[trade.buyer];
        if (available < trade.amount) return INSUFFICIENT_ESCROW;
        settled[trade.id] = true;
        unchecked {
            escrow[trade.buyer] = available - trade.amount;
            escrow[trade.seller] += trade.amount;
        }
        return 0;
    }

    function _setOperator(address operator_) private {
        if (operator_ == address(0)) revert ZeroAddress();
        emit OperatorChanged(operator, operator_);
        operator = operator_;
    }
}
