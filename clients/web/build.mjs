// `node build.mjs [DIR]`: builds the library into DIR, by default dist/: one module with its source map, the types, and
// the runtime's two files beside it.
import { build } from "esbuild";
import { execFileSync } from "node:child_process";
import { cp, mkdir, rm, writeFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { licencesOf, packagesOf } from "./licences.mjs";

const here = (path) => fileURLToPath(new URL(path, import.meta.url));
const RUNTIME = ["ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"];
const output = resolve(process.argv[2] ?? here("dist"));

await rm(output, { recursive: true, force: true });
await mkdir(output, { recursive: true });
const { metafile } = await build({
  metafile: true,
  entryPoints: [here("src/index.ts")],
  outfile: join(output, "index.js"),
  bundle: true,
  format: "esm",
  target: "es2022",
  platform: "browser",
  minify: true,
  sourcemap: true,
  conditions: ["onnxruntime-web-use-extern-wasm"], // its WebAssembly lies beside the module
  legalComments: "eof",
  external: ["node:*"],
  logLevel: "warning",
});
const types = ["--noEmit", "false", "--declaration", "--emitDeclarationOnly", "--rootDir", here("src")];
const sources = ["--outDir", join(output, "types"), "-p", here("tsconfig.build.json")];
execFileSync(here("node_modules/.bin/tsc"), [...types, ...sources], { stdio: "inherit" });
for (const file of RUNTIME) await cp(here(`node_modules/onnxruntime-web/dist/${file}`), join(output, file));
await writeFile(join(output, "LICENSES.txt"), await licencesOf(packagesOf(metafile)));
