#!/usr/bin/env node
// The compiler of node_modules, as the command line that slither expects: `--version`, and `--standard-json` from
// standard input. Imports of packages are found in node_modules, files in the project (the working folder).
import { existsSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const ROOT = resolve(dirname(fileURLToPath(import.meta.url)), "../..");
const solc = createRequire(join(ROOT, "node_modules", "_"))("solc");

function find(path) {
    const file = [join(ROOT, path), join(ROOT, "node_modules", path)].find((candidate) => existsSync(candidate));
    return file ? { contents: readFileSync(file, "utf8") } : { error: `${path} was not found` };
}

if (process.argv.includes("--version")) {
    console.log(`solc, the solidity compiler commandline interface\nVersion: ${solc.version()}`);
} else {
    const input = JSON.parse(readFileSync(0, "utf8"));
    for (const [path, source] of Object.entries(input.sources)) {
        if (source.urls) input.sources[path] = { content: find(path).contents };
    }
    process.stdout.write(solc.compile(JSON.stringify(input), { import: find }));
}
