// Compiles the contracts and writes one small artifact each.
//
//   node infra/contracts/compile.mjs            writes the artifacts
//   node infra/contracts/compile.mjs --check    compares them with the committed ones; exit 1 if they differ
//
// The compiler and OpenZeppelin come from node_modules at the root of the project (NODE_MODULES names another folder).
import { existsSync, mkdirSync, readFileSync, readdirSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { basename, dirname, join, relative, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const SOLC = "0.8.37";
const ROOT = resolve(dirname(fileURLToPath(import.meta.url)), "../..");
const NODE_MODULES = resolve(process.env.NODE_MODULES ?? join(ROOT, "node_modules"));
const FOLDERS = ["infra/contracts", "tests/contracts/mocks"];

function fail(sentence) {
    console.error(sentence);
    process.exit(1);
}

function loadCompiler() {
    if (!existsSync(join(NODE_MODULES, "solc"))) {
        fail(`There is no Solidity compiler in ${NODE_MODULES}: run "npm ci" first.`);
    }
    const solc = createRequire(join(NODE_MODULES, "_"))("solc");
    if (!solc.version().startsWith(`${SOLC}+`)) {
        fail(`The contracts are compiled with solc ${SOLC}, but ${NODE_MODULES} has ${solc.version()}: run "npm ci".`);
    }
    return solc;
}

function compile(solc, sources) {
    const input = {
        language: "Solidity",
        sources: Object.fromEntries(
            sources.map((path) => [path, { content: readFileSync(join(ROOT, path), "utf8") }]),
        ),
        settings: {
            optimizer: { enabled: true, runs: 1000 },
            evmVersion: "cancun",
            // No hash of the sources in the code: an edited comment does not change the contract.
            metadata: { bytecodeHash: "none" },
            outputSelection: { "*": { "*": ["abi", "evm.bytecode.object", "evm.deployedBytecode.object"] } },
        },
    };
    const find = (path) => {
        const file = join(NODE_MODULES, path);
        return existsSync(file) ? { contents: readFileSync(file, "utf8") } : { error: `${path} was not found` };
    };
    const output = JSON.parse(solc.compile(JSON.stringify(input), { import: find }));
    // A warning in our own sources is an error; OpenZeppelin's are theirs.
    const problems = (output.errors ?? []).filter(
        (error) => error.severity === "error" || !error.sourceLocation?.file.startsWith("@openzeppelin/"),
    );
    if (problems.length > 0) {
        fail(problems.map((error) => error.formattedMessage).join("\n"));
    }
    return output.contracts;
}

const solc = loadCompiler();
const check = process.argv.includes("--check");
const expected = new Map();
for (const folder of FOLDERS) {
    const sources = readdirSync(join(ROOT, folder)).filter((name) => name.endsWith(".sol")).sort();
    const paths = sources.map((name) => `${folder}/${name}`);
    const contracts = compile(solc, paths);
    for (const path of paths) {
        for (const [contractName, { abi, evm }] of Object.entries(contracts[path])) {
            if (evm.bytecode.object === "") continue; // an interface
            const artifact = {
                contractName,
                solc: solc.version(),
                abi,
                bytecode: `0x${evm.bytecode.object}`,
                deployedBytecode: `0x${evm.deployedBytecode.object}`,
            };
            expected.set(join(ROOT, folder, "artifacts", `${contractName}.json`), `${JSON.stringify(artifact, null, 1)}\n`);
        }
    }
}

const stale = [];
for (const [file, text] of expected) {
    if (check) {
        if (!existsSync(file) || readFileSync(file, "utf8") !== text) stale.push(file);
    } else {
        mkdirSync(dirname(file), { recursive: true });
        writeFileSync(file, text);
    }
}
for (const folder of FOLDERS.map((name) => join(ROOT, name, "artifacts"))) {
    for (const name of existsSync(folder) ? readdirSync(folder) : []) {
        if (!expected.has(join(folder, name))) stale.push(join(folder, name));
    }
}
if (stale.length > 0) {
    const names = stale.map((file) => relative(ROOT, file)).join(", ");
    fail(`These artifacts do not match the contracts' sources: ${names}; run "node infra/contracts/compile.mjs" and commit.`);
}
console.log(`${[...expected.keys()].map((file) => basename(file, ".json")).join(", ")}: ${check ? "as committed" : "written"}.`);
