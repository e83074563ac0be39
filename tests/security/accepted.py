"""What the tools find and we leave as it is, each for its reason. One that nothing needs any more must go."""

from typing import Final

from tests.security.findings import Accepted

PROGRAMS: Final = "localstack/* infra/* bench/*"

ACCEPTED: Final = (
    # ---- bandit
    Accepted(
        tool="bandit",
        rule="B101",
        where="*",
        reason="assert says what cannot be otherwise; nothing that a caller may get wrong is left to it.",
    ),
    Accepted(
        tool="bandit",
        rule="B104",
        where="localstack/local_market/emulators/ministack_here.py",
        reason="It is looked for there, to be replaced by the loopback.",
    ),
    Accepted(
        tool="bandit",
        rule="B105",
        where="functions/auth_api/app.py localstack/* clients/* bench/requests.py",
        reason="Words, names of secrets, and the emulator's public credentials: no secret among them.",
    ),
    Accepted(
        tool="bandit",
        rule="B108",
        where="localstack/local_market/parts/postgres.py",
        reason="The folder is made with mode 0700, and refused if somebody else made it first.",
    ),
    Accepted(
        tool="bandit",
        rule="B310",
        where="layers/energy_market/energy_market/aws/custom_resources.py localstack/local_market/stack/sam.py",
        reason="CloudFormation's own address, and our own.",
    ),
    Accepted(
        tool="bandit",
        rule="B311",
        where="*",
        reason="Chance in pauses, ports and simulated homes. What must not be guessed comes from `secrets`.",
    ),
    Accepted(
        tool="bandit",
        rule="B404",
        where=PROGRAMS,
        reason="They start programs: that is what they are for. No function does.",
    ),
    Accepted(
        tool="bandit", rule="B603", where=PROGRAMS, reason="Arguments are lists, never a shell's line, and our own."
    ),
    Accepted(
        tool="bandit",
        rule="B606",
        where="localstack/local_market/commands/conformance.py",
        reason="It becomes pytest, with arguments of whoever typed them.",
    ),
    Accepted(
        tool="bandit", rule="B607", where="localstack/*", reason="Programs are found on the PATH of who develops."
    ),
    Accepted(
        tool="bandit",
        rule="B413",
        where="layers/energy_market/energy_market/domain/wallets.py",
        reason="pycryptodome, which is maintained, goes by pycrypto's name.",
    ),
    Accepted(
        tool="bandit",
        rule="B608",
        where="layers/energy_market/energy_market/postgres/* localstack/local_market/chaos/faults/database.py bench/*",
        reason="SQL is put together from constants of its module: tests/unit/test_sql.py holds it to that.",
    ),
    # ---- checkov
    Accepted(
        tool="checkov",
        rule="CKV_AWS_111",
        where="AWS::IAM::ManagedPolicy.VpcAccess",
        reason="Lambda itself needs it to put a function into a VPC, and takes no narrower one; our code is denied it.",
    ),
    Accepted(
        tool="checkov",
        rule="CKV_AWS_115",
        where="AWS::Serverless::Function.*",
        reason="Queues bound their functions (MaximumConcurrency), the loop makes one call a zone, sources are limited "
        "before the API: a reservation would take from the account's pool what the others need.",
    ),
    Accepted(
        tool="checkov",
        rule="CKV_AWS_116",
        where="AWS::Serverless::Function.*",
        reason="Whoever calls waits for the answer, or a queue with dead letters of its own calls; the sweep that is "
        "woken comes again by itself.",
    ),
    Accepted(
        tool="checkov",
        rule="CKV_AWS_120",
        where="AWS::Serverless::Api.Api",
        reason="Answers are one caller's (no-store): a cache could only give them to another.",
    ),
    Accepted(
        tool="checkov",
        rule="CKV_AWS_158",
        where="AWS::Logs::LogGroup.*",
        reason="CloudWatch encrypts them with its own key, and a test sees that nothing secret is in them.",
    ),
    Accepted(
        tool="checkov",
        rule="CKV_AWS_27",
        where="AWS::SQS::Queue.*",
        reason="They are encrypted by SQS (SqsManagedSseEnabled), which this check does not know.",
    ),
    Accepted(
        tool="checkov",
        rule="CKV_AWS_73",
        where="AWS::Serverless::Api.Api",
        reason="Each request leaves an audit line with its id and how long it took; a trace says no more.",
    ),
    Accepted(
        tool="checkov",
        rule="CKV_AWS_76",
        where="AWS::Serverless::Api.Api",
        reason="The functions write the access log, with the user in it. The gateway's own needs a role that is a "
        "setting of the whole account.",
    ),
    Accepted(
        tool="checkov",
        rule="CKV_AWS_192",
        where="AWS::WAFv2::WebACL.WebAcl",
        reason="Nothing here runs on Java.",
    ),
    Accepted(
        tool="checkov",
        rule="CKV_OPENAPI_5",
        where="security",
        reason="Sign-in, health, chain, contract and page are for everybody; the walk knows which routes these are.",
    ),
    Accepted(
        tool="checkov",
        rule="CKV_SECRET_4",
        where="template.yaml",
        reason="A sentence that says how a database's address is spelt.",
    ),
    # ---- slither
    Accepted(
        tool="slither",
        rule="incorrect-equality",
        where="infra/contracts/EnergySettlement.sol",
        reason="Of a deposit that brought nothing, by which nobody gains; and of hours, which are counted here.",
    ),
    Accepted(
        tool="slither",
        rule="timestamp",
        where="infra/contracts/EnergySettlement.sol",
        reason="Of trades that end after minutes, hours, and days; what a block's maker may shift is a few seconds.",
    ),
    Accepted(
        tool="slither",
        rule="naming-convention",
        where="infra/contracts/*",
        reason="An immutable is spelt as a constant, as Solidity's own style guide has it.",
    ),
    Accepted(
        tool="slither",
        rule="pragma",
        where="infra/contracts/EnergySettlement.sol",
        reason="Ours name one version; OpenZeppelin's files take any from an oldest on, and are compiled with ours.",
    ),
    # ---- schemathesis
    Accepted(
        tool="schemathesis",
        rule="UnsupportedMethodResponse",
        where="*",
        reason="API Gateway refuses a method that no route has before any function runs: 404 no_such_route on AWS, "
        "403 by the emulator, which has no gateway responses. A test tries them all: tests/e2e/test_security.py.",
    ),
)
