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
/// at least that many tokens; in a period no more is moved than its limit, nor out of an account than its owner's cap.
/// The owner can pause, name the operator and set the limit; neither can reach a balance except by `settle`.
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

    /// @notice What somebody has here.
    /// @param escrow In the token's smallest unit.
    /// @param capped Whether its owner has set a cap: those who have none do not pay for looking it up.
    struct Account {
        uint128 escrow;
        bool capped;
    }

    /// @notice How much may be moved in a period, and how much was.
    /// @param limit In the token's smallest unit.
    /// @param moved So much, if it was in this period; else nothing yet.
    /// @param period Hours since 1970, in which `moved` was moved.
    struct Budget {
        uint112 limit;
        uint112 moved;
        uint32 period;
    }

    /// @notice A limit that was announced.
    /// @param limit In the token's smallest unit.
    /// @param from The first block time (Unix seconds) at which it may come into force; 0 if none was announced.
    struct Raise {
        uint112 limit;
        uint64 from;
    }

    /// @notice Why a trade of a batch was not paid by it.
    uint8 public constant ALREADY_SETTLED = 1;
    uint8 public constant INSUFFICIENT_ESCROW = 2;
    uint8 public constant EXPIRED = 3;
    uint8 public constant OVER_CAP = 4;
    uint8 public constant OVER_LIMIT = 5;

    /// @notice Amounts are exact in nano-tokens, so the token needs at least this many decimals.
    uint8 public constant MIN_DECIMALS = 9;

    /// @notice With more, the market's amounts would not fit.
    uint8 public constant MAX_DECIMALS = 24;

    /// @notice Limit and caps are of what is moved in an hour by the clock.
    uint256 public constant PERIOD = 1 hours;

    /// @notice A higher limit is announced so long before it holds: time to withdraw for whoever does not agree.
    uint256 public constant RAISE_DELAY = 2 days;

    /// @notice For so long it may come into force: what was announced long ago surprises nobody.
    uint256 public constant RAISE_LIFETIME = 7 days;

    /// @notice The most trades one call may carry: it bounds the gas of a batch far below a block's.
    uint256 public constant MAX_TRADES = 200;

    /// @notice The token that pays.
    IERC20 public immutable TOKEN;

    /// @notice The only account that may settle.
    address public operator;

    /// @notice The sum of all escrow.
    uint256 public totalEscrow;

    /// @notice What all trades together may move.
    Budget public budget;

    /// @notice The higher limit that is to come, if one was announced.
    Raise public announced;

    /// @notice Everybody's escrow.
    mapping(address account => Account) public accounts;

    /// @notice What trades may move out of an account, where its owner has set a cap.
    mapping(address account => Budget) public caps;

    /// @notice Whether a trade was paid.
    mapping(bytes32 id => bool paid) public settled;

    event Deposited(address indexed account, uint256 amount);
    event Withdrawn(address indexed account, uint256 amount);
    event TradeSettled(
        bytes32 indexed id, address indexed buyer, address indexed seller, uint256 amount, uint256 energyWh
    );
    event TradeSkipped(bytes32 indexed id, uint8 reason);
    event OperatorChanged(address indexed previous, address indexed current);
    event LimitChanged(uint256 previous, uint256 current);
    event RaiseAnnounced(uint256 limit, uint256 from);
    event CapSet(address indexed account, uint256 limit);
    event CapRemoved(address indexed account);

    error WrongDecimals(uint8 decimals);
    error ZeroAddress();
    error ZeroAmount();
    error NotOperator(address caller);
    error EscrowTooLow(uint256 available, uint256 wanted);
    error EscrowTooHigh(uint256 total);
    error NotTransferred(uint256 wanted, uint256 transferred);
    error RaiseNotDue(uint256 from, uint256 until);
    error TooManyTrades(uint256 trades);
    error OwnerRequired();

    /// @param token An ERC-20 with 9 to 24 decimals.
    /// @param owner_ May pause, unpause, name the operator, and set the limit.
    /// @param operator_ May settle.
    /// @param limit What trades may move in a period, in the token's smallest unit.
    constructor(address token, address owner_, address operator_, uint112 limit) Ownable(owner_) {
        uint8 decimals = IERC20Metadata(token).decimals();
        if (decimals < MIN_DECIMALS || decimals > MAX_DECIMALS) revert WrongDecimals(decimals);
        if (limit == 0) revert ZeroAmount();
        TOKEN = IERC20(token);
        _setOperator(operator_);
        _setLimit(limit);
    }

    /// @notice Put tokens into escrow; approve them first.
    /// @dev Credits what arrived, which is less than `amount` for a token that takes a fee.
    function deposit(uint256 amount) external whenNotPaused nonReentrant {
        uint256 before = TOKEN.balanceOf(address(this));
        TOKEN.safeTransferFrom(msg.sender, address(this), amount);
        uint256 received = TOKEN.balanceOf(address(this)) - before;
        if (received == 0) revert ZeroAmount();
        uint256 total = totalEscrow + received;
        if (total > type(uint128).max) revert EscrowTooHigh(total);
        totalEscrow = total;
        unchecked {
            accounts[msg.sender].escrow += uint128(received);
        }
        emit Deposited(msg.sender, received);
    }

    /// @notice Take tokens out of escrow. Possible while paused: nobody's money is held by a pause.
    /// @dev Whoever withdraws a token that takes a fee on top of the amount pays that fee, not the others.
    function withdraw(uint256 amount) external nonReentrant {
        if (amount == 0) revert ZeroAmount();
        _debit(msg.sender, amount);
        uint256 before = TOKEN.balanceOf(address(this));
        TOKEN.safeTransfer(msg.sender, amount);
        uint256 transferred = before - TOKEN.balanceOf(address(this));
        if (transferred < amount) revert NotTransferred(amount, transferred);
        if (transferred > amount) _debit(msg.sender, transferred - amount);
    }

    /// @notice Let trades move no more than this out of your escrow in a period; 0 for nothing, as a seller may want.
    /// @dev What was moved in this period under a cap set before counts.
    function setCap(uint112 limit) external {
        accounts[msg.sender].capped = true;
        caps[msg.sender].limit = limit;
        emit CapSet(msg.sender, limit);
    }

    /// @notice Let trades move whatever you have in escrow again.
    function removeCap() external {
        accounts[msg.sender].capped = false;
        emit CapRemoved(msg.sender);
    }

    /// @notice Pay a batch of trades. A trade that cannot be paid is skipped with an event and does not undo the others.
    /// @dev An empty batch is allowed: it uses up a nonce.
    function settle(Trade[] calldata trades) external whenNotPaused {
        if (msg.sender != operator) revert NotOperator(msg.sender);
        if (trades.length > MAX_TRADES) revert TooManyTrades(trades.length);
        uint256 room = _room(budget);
        uint256 left = room;
        for (uint256 i = 0; i < trades.length; ++i) {
            Trade calldata trade = trades[i];
            uint8 obstacle = _pay(trade, left);
            if (obstacle == 0) {
                unchecked {
                    left -= trade.amount;
                }
                emit TradeSettled(trade.id, trade.buyer, trade.seller, trade.amount, trade.energyWh);
            } else {
                emit TradeSkipped(trade.id, obstacle);
            }
        }
        if (left != room) _count(budget, room - left);
    }

    /// @notice What an account may spend or withdraw, in the token's smallest unit.
    function escrow(address account) external view returns (uint256) {
        return accounts[account].escrow;
    }

    /// @notice What trades may still move in this period, in the token's smallest unit.
    function movable() external view returns (uint256) {
        return _room(budget);
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

    /// @notice Set what trades may move in a period. A lower limit holds at once, and takes back a raise that was announced;
    /// a higher one is announced, and holds once `raiseLimit` is called.
    function setLimit(uint112 limit) external onlyOwner {
        if (limit > budget.limit) {
            uint64 from = uint64(block.timestamp + RAISE_DELAY);
            announced = Raise({limit: limit, from: from});
            emit RaiseAnnounced(limit, from);
        } else {
            delete announced;
            _setLimit(limit);
        }
    }

    /// @notice Bring the limit into force that was announced.
    function raiseLimit() external onlyOwner {
        Raise memory raise = announced;
        uint256 until = raise.from + RAISE_LIFETIME;
        if (raise.from == 0 || block.timestamp < raise.from || block.timestamp > until) {
            revert RaiseNotDue(raise.from, until);
        }
        delete announced;
        _setLimit(raise.limit);
    }

    /// @notice Refused: without an owner a pause or a stolen operator key would be for good.
    function renounceOwnership() public pure override {
        revert OwnerRequired();
    }

    /// @dev Returns 0 if the trade was paid, else why not. `room`: what may still be moved. Cannot revert: what is
    /// subtracted is checked first, and what is added cannot overflow, since all escrow together fits.
    function _pay(Trade calldata trade, uint256 room) private returns (uint8) {
        if (settled[trade.id]) return ALREADY_SETTLED;
        if (block.timestamp > trade.validUntil) return EXPIRED;
        Account storage buyer = accounts[trade.buyer];
        (uint256 available, bool capped) = (buyer.escrow, buyer.capped);
        if (available < trade.amount) return INSUFFICIENT_ESCROW;
        if (capped && _room(caps[trade.buyer]) < trade.amount) return OVER_CAP;
        if (room < trade.amount) return OVER_LIMIT;
        if (capped) _count(caps[trade.buyer], trade.amount);
        settled[trade.id] = true;
        unchecked {
            buyer.escrow = uint128(available - trade.amount);
            accounts[trade.seller].escrow += uint128(trade.amount);
        }
        return 0;
    }

    function _debit(address account, uint256 amount) private {
        uint256 available = accounts[account].escrow;
        if (available < amount) revert EscrowTooLow(available, amount);
        unchecked {
            accounts[account].escrow = uint128(available - amount);
            totalEscrow -= amount;
        }
        emit Withdrawn(account, amount);
    }

    /// @dev What a budget still allows in this period.
    function _room(Budget memory one) private view returns (uint256) {
        uint256 moved = one.period == _period() ? one.moved : 0;
        return one.limit > moved ? one.limit - moved : 0;
    }

    /// @dev The amount must be within `_room`, so that the sum is within the limit.
    function _count(Budget storage one, uint256 amount) private {
        uint32 period = _period();
        uint256 moved = one.period == period ? one.moved : 0;
        one.moved = uint112(moved + amount);
        one.period = period;
    }

    function _period() private view returns (uint32) {
        return uint32(block.timestamp / PERIOD);
    }

    function _setLimit(uint112 limit) private {
        emit LimitChanged(budget.limit, limit);
        budget.limit = limit;
    }

    function _setOperator(address operator_) private {
        if (operator_ == address(0)) revert ZeroAddress();
        emit OperatorChanged(operator, operator_);
        operator = operator_;
    }
}
