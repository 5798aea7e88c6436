/**
 * Build of the page: `node page/build.mjs [--output DIR]`.
 *
 * Names in DIR/client carry a hash of the content, so that browsers may keep the files for good. The styles are those of
 * the normal service's page with what this page adds. A file that shrinks by a tenth lies there as FILE.gz, too.
 */

import { createHash } from "node:crypto";
import { mkdir, readFile, rm, writeFile } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { gzipSync } from "node:zlib";
import { build } from "esbuild";
import { licencesOf, packagesOf } from "../licences.mjs";

const here = (path) => fileURLToPath(new URL(path, import.meta.url));
const NORMAL_PAGE = here("../../../iom/service/page");
const RUNTIME = here("../node_modules/onnxruntime-web/dist");
const WASM = "ort-wasm-simd-threaded.wasm";
const LOADER = "ort-wasm-simd-threaded.mjs";
const HASH_DIGITS = 12;

const { values } = parseArgs({ options: { output: { type: "string" } } });
const output = resolve(values.output ?? here("../../../iom/service/on_device_page"));

const hashOf = (...parts) => parts.reduce((hash, part) => hash.update(part), createHash("sha256")).digest("hex").slice(0, HASH_DIGITS);

async function write(address, content) {
  const path = join(output, address);
  await mkdir(dirname(path), { recursive: true });
  await writeFile(path, content);
  const small = address.startsWith("/client/") ? gzipSync(content, { level: 9 }) : content;
  if (small.length < 0.9 * content.length) await writeFile(`${path}.gz`, small);
}

/** Packages whose code is in a bundle, or beside it. */
const packages = ["onnxruntime-web"];

/** Text of a bundle of one source file, with constants that the sources declare. */
async function bundle(name, constants = {}) {
  const { outputFiles, metafile } = await build({
    entryPoints: [here(`src/${name}.ts`)],
    bundle: true,
    format: "esm",
    target: "es2022",
    platform: "browser",
    minify: true,
    write: false,
    conditions: ["onnxruntime-web-use-extern-wasm"], // its WebAssembly is a file of its own
    legalComments: "none", // they are in licences.txt
    metafile: true,
    external: ["node:*"],
    define: Object.fromEntries(Object.entries(constants).map(([key, value]) => [key, JSON.stringify(value)])),
    logLevel: "warning",
  });
  packages.push(...packagesOf(metafile));
  return outputFiles[0].text;
}

/** Write a file of `client` under its hash; its address. */
async function kept(name, ending, content) {
  const address = `/client/${name}-${hashOf(content)}.${ending}`;
  await write(address, content);
  return address;
}

/** A text with addresses in place of the names that it has in the sources. */
function filled(text, addresses) {
  return Object.entries(addresses).reduce((all, [name, address]) => {
    if (!all.includes(`"${name}"`)) throw new Error(`page.html: expected "${name}", found none`);
    return all.replace(`"${name}"`, `"${address}"`);
  }, text);
}

await rm(output, { recursive: true, force: true });
const [wasm, loader] = await Promise.all([WASM, LOADER].map((name) => readFile(join(RUNTIME, name))));
const folder = `/client/ort-${hashOf(wasm, loader)}/`;
await write(`${folder}${WASM}`, wasm);
await write(`${folder}${LOADER}`, loader);

const styles = await Promise.all([join(NORMAL_PAGE, "page.css"), here("on_device.css")].map((path) => readFile(path)));
const style = await kept("page", "css", Buffer.concat(styles));
const worker = await kept("worker", "js", await bundle("worker", { RUNTIME: folder }));
const icon = await readFile(join(NORMAL_PAGE, "icon.svg"));
const manifest = await readFile(here("app.webmanifest"));
const html = await readFile(here("page.html"), "utf8");
// The version names all that the browser runs; the script of the page shows it, and so is not part of it.
const version = hashOf(html, style, worker, folder, icon, manifest, await bundle("main"), await bundle("service_worker"));
const main = await kept("main", "js", await bundle("main", { WORKER: worker, VERSION: version }));
const licence = await readFile(here("../../../LICENSE"), "utf8");
const licenceFile = await kept("licences", "txt", await licencesOf(packages, `This page\n\n${licence}`));
await write("/page.html", filled(html, { "/client/page.css": style, "/client/main.js": main, "/client/licences.txt": licenceFile }));
await write("/icon.svg", icon);
await write("/app.webmanifest", manifest);
const shell = ["/", "/icon.svg", "/app.webmanifest", style, main, worker, `${folder}${LOADER}`];
await write("/sw.js", await bundle("service_worker", { VERSION: version, SHELL: shell }));
console.log(`page ${version} in ${output}`);
