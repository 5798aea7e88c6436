/** Licences of the packages in a bundle, for both builds. */

import { readFile, readdir } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const PACKAGES = fileURLToPath(new URL("node_modules", import.meta.url));
const RULE = `\n\n${"-".repeat(80)}\n\n`;

/** Names of the packages whose code is in a bundle, by the `metafile` of esbuild. */
export function packagesOf(metafile) {
  const found = Object.keys(metafile.inputs).map((path) => /node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(path)?.[1]);
  return found.filter((name) => name !== undefined);
}

/** A text of parts: some texts, then for each package its name, version, licence, source and licence texts. */
export async function licencesOf(packages, ...texts) {
  const parts = [...texts, ...(await Promise.all([...new Set(packages)].sort().map(notice)))];
  return `${parts.map((part) => part.trim()).join(RULE)}\n`;
}

async function notice(name) {
  const folder = join(PACKAGES, name);
  const { version, license, author, repository } = JSON.parse(await readFile(join(folder, "package.json"), "utf8"));
  const files = (await readdir(folder)).filter((file) => /^licen[cs]e/i.test(file)).sort();
  const texts = await Promise.all(files.map((file) => readFile(join(folder, file), "utf8")));
  const source = (repository?.url ?? repository ?? "").replace(/^git\+/, "");
  const stated = texts.length ? texts : [`${license}, ${author?.name ?? author ?? "its authors"}`];
  return [`${name} ${version} (${license}), ${source}`, ...stated].join("\n\n");
}
