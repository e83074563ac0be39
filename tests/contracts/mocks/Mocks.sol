// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";

/// @dev A token with as many decimals as it is told; anybody mints.
contract PlainToken is ERC20 {
    uint8 private immutable DECIMALS;

    constructor(uint8 decimals_) ERC20("Plain", "PLN") {
        DECIMALS = decimals_;
    }

    function decimals() public view override returns (uint8) {
        return DECIMALS;
    }

    function mint(address to, uint256 amount) external {
        _mint(to, amount);
    }
}

/// @dev Keeps one percent of every transfer.
contract FeeToken is PlainToken {
    constructor() PlainToken(18) {}

    function _update(address from, address to, uint256 amount) internal override {
        uint256 fee = from == address(0) || to == address(0) ? 0 : amount / 100;
        super._update(from, to, amount - fee);
        if (fee != 0) super._update(from, address(this), fee);
    }
}

/// @dev Answers false in place of reverting, like some old tokens.
contract SilentToken is PlainToken {
    constructor() PlainToken(18) {}

    function transferFrom(address, address, uint256) public pure override returns (bool) {
        return false;
    }
}

/// @dev Answers nothing at all, as Tether does.
contract WordlessToken {
    uint8 public constant decimals = 18;

    mapping(address account => uint256 amount) public balanceOf;
    mapping(address account => mapping(address spender => uint256 amount)) public allowance;

    function mint(address to, uint256 amount) external {
        balanceOf[to] += amount;
    }

    function approve(address spender, uint256 amount) external {
        allowance[msg.sender][spender] = amount;
    }

    function transfer(address to, uint256 amount) external {
        balanceOf[msg.sender] -= amount;
        balanceOf[to] += amount;
    }

    function transferFrom(address from, address to, uint256 amount) external {
        allowance[from][msg.sender] -= amount;
        balanceOf[from] -= amount;
        balanceOf[to] += amount;
    }
}

/// @dev From when it is told to, it says that it has transferred, and does not.
contract LyingToken is PlainToken {
    bool private lies;

    constructor() PlainToken(18) {}

    function lie() external {
        lies = true;
    }

    function transfer(address to, uint256 amount) public override returns (bool) {
        return lies || super.transfer(to, amount);
    }

    function transferFrom(address from, address to, uint256 amount) public override returns (bool) {
        return lies || super.transferFrom(from, to, amount);
    }
}

/// @dev Takes one percent from the sender on top of what he sends.
contract GreedyToken is PlainToken {
    constructor() PlainToken(18) {}

    function _update(address from, address to, uint256 amount) internal override {
        super._update(from, to, amount);
        if (from != address(0) && to != address(0)) super._update(from, address(this), amount / 100);
    }
}

/// @dev Refuses whomever it is told to.
contract PickyToken is PlainToken {
    mapping(address account => bool refused) private isRefused;

    error Refused(address account);

    constructor() PlainToken(18) {}

    function refuse(address account) external {
        isRefused[account] = true;
    }

    function _update(address from, address to, uint256 amount) internal override {
        if (isRefused[to]) revert Refused(to);
        super._update(from, to, amount);
    }
}

interface IEscrow {
    function deposit(uint256 amount) external;
    function withdraw(uint256 amount) external;
}

/// @dev Calls back into the escrow in the middle of each transfer, as a token with hooks lets its holders do.
contract ReentrantToken is PlainToken {
    IEscrow private target;
    bytes private attack;
    bytes public refusal;

    constructor() PlainToken(18) {}

    function arm(IEscrow target_, bytes calldata attack_) external {
        target = target_;
        attack = attack_;
    }

    function _update(address from, address to, uint256 amount) internal override {
        super._update(from, to, amount);
        if (address(target) == address(0) || from == address(0)) return;
        (bool done, bytes memory answer) = address(target).call(attack);
        require(!done, "the attack went through");
        refusal = answer;
    }
}

/// @dev Stands in at the settlement contract's address. Reverts a batch that holds the poisoned trade; forgets all else.
/// Its storage slot is far from the real contract's, whose storage it lives on.
contract PoisonedSettlement {
    struct Trade {
        bytes32 id;
        address buyer;
        address seller;
        uint256 amount;
        uint256 energyWh;
        uint64 validUntil;
    }

    bytes32 private constant SLOT = keccak256("poison");

    event TradeSettled(
        bytes32 indexed id, address indexed buyer, address indexed seller, uint256 amount, uint256 energyWh
    );

    error Poisoned(bytes32 id);

    function poison(bytes32 id) external {
        bytes32 slot = SLOT;
        assembly {
            sstore(slot, id)
        }
    }

    function settle(Trade[] calldata trades) external {
        bytes32 slot = SLOT;
        bytes32 poisoned;
        assembly {
            poisoned := sload(slot)
        }
        for (uint256 i = 0; i < trades.length; ++i) {
            Trade calldata t = trades[i];
            if (t.id == poisoned) revert Poisoned(t.id);
            emit TradeSettled(t.id, t.buyer, t.seller, t.amount, t.energyWh);
        }
    }

    function areSettled(bytes32[] calldata ids) external pure returns (bool[] memory) {
        return new bool[](ids.length);
    }

    /// @dev The original's, which the tests put there.
    function TOKEN() external view returns (address) {
        return _at(keccak256("token"));
    }

    /// @dev The original's, which the tests put there.
    function operator() external view returns (address) {
        return _at(keccak256("operator"));
    }

    function paused() external pure returns (bool) {
        return false;
    }

    function _at(bytes32 slot) private view returns (address found) {
        assembly {
            found := sload(slot)
        }
    }

    function budget() external pure returns (uint112 limit, uint112 moved, uint32 period) {
        return (type(uint112).max, 0, 0);
    }
}

/// @dev The settlement contract without its memory: it pays a trade as often as it is asked. Whoever settles here without
/// paying twice does not lean on the contract. One trade may be poison to it, as above.
contract ForgetfulSettlement {
    struct Trade {
        bytes32 id;
        address buyer;
        address seller;
        uint256 amount;
        uint256 energyWh;
        uint64 validUntil;
    }

    bytes32 private constant SLOT = keccak256("poison");

    IERC20 public immutable TOKEN;
    address public operator;
    uint256 public totalEscrow;
    mapping(address account => uint256 amount) public escrow;
    mapping(bytes32 id => bool paid) public settled;

    event Deposited(address indexed account, uint256 amount);
    event TradeSettled(
        bytes32 indexed id, address indexed buyer, address indexed seller, uint256 amount, uint256 energyWh
    );
    event TradeSkipped(bytes32 indexed id, uint8 reason);

    error NotOperator(address caller);
    error Poisoned(bytes32 id);

    constructor(address token, address, address operator_, uint112) {
        TOKEN = IERC20(token);
        operator = operator_;
    }

    function deposit(uint256 amount) external {
        TOKEN.transferFrom(msg.sender, address(this), amount);
        escrow[msg.sender] += amount;
        totalEscrow += amount;
        emit Deposited(msg.sender, amount);
    }

    function settle(Trade[] calldata trades) external {
        if (msg.sender != operator) revert NotOperator(msg.sender);
        bytes32 slot = SLOT;
        bytes32 poisoned;
        assembly {
            poisoned := sload(slot)
        }
        for (uint256 i = 0; i < trades.length; ++i) {
            Trade calldata t = trades[i];
            if (t.id == poisoned) revert Poisoned(t.id);
            if (block.timestamp > t.validUntil) {
                emit TradeSkipped(t.id, 3);
            } else if (escrow[t.buyer] < t.amount) {
                emit TradeSkipped(t.id, 2);
            } else {
                settled[t.id] = true;
                escrow[t.buyer] -= t.amount;
                escrow[t.seller] += t.amount;
                emit TradeSettled(t.id, t.buyer, t.seller, t.amount, t.energyWh);
            }
        }
    }

    function paused() external pure returns (bool) {
        return false;
    }

    function budget() external pure returns (uint112 limit, uint112 moved, uint32 period) {
        return (type(uint112).max, 0, 0);
    }

    function areSettled(bytes32[] calldata ids) external view returns (bool[] memory paid) {
        paid = new bool[](ids.length);
        for (uint256 i = 0; i < ids.length; ++i) {
            paid[i] = settled[ids[i]];
        }
    }
}
