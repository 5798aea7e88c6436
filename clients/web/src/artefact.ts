/** Artefacts of `iom deploy --to web`: their files, fetched with progress and checked against the manifest. */

import type { Template } from "./align.js";
import { sha256, toHex } from "./bytes.js";
import type { DetectorSettings } from "./detector.js";
import { ArtefactError } from "./errors.js";
import type { StatedHead } from "./head.js";
import { DERIVATIONS, type KeyKind } from "./keys.js";
import { RUNTIME_BYTES } from "./runtime.js";

const FORMAT = 1;
const TARGET = "web";

/** The manifest of a web artefact, the fields that this library reads. */
export interface Manifest {
  format: number;
  target: string;
  runtime: string;
  precision: string;
  /** SHA-256 by name, relative to the folder of the manifest. */
  files: Record<string, string>;
  input_size: number;
  embedding_size: number;
  code_length: number;
  alphabet_size: number;
  keep: number;
  key_size: number;
  key_kind: KeyKind;
  template: string;
  fingerprint: string;
  calibration: { threshold: number; comparison?: string; [name: string]: unknown } | null;
  [name: string]: unknown;
}

/** What `web.json` says. */
export interface Description {
  format: number;
  embedder: {
    file: string;
    input: string;
    output: string;
    layout: "NHWC" | "NCHW";
    colour_order: "RGB" | "BGR";
    mean: number;
    scale: number;
    size: number;
  };
  template: Template;
  detector: { name: string; files: Record<"pnet" | "rnet" | "onet", string> } & DetectorSettings;
  head: StatedHead;
  key: { kind: KeyKind; derivation: string; size: number; keep: number };
  bytes: Record<string, number>;
  limits: {
    max_side: number;
    quick_side: number;
    clear: number;
    min_score: number;
    min_size: number;
    bystander: number;
    min_sharpness: number;
    edge: number;
    max_megapixels: number;
  };
}

const LIMITS = [
  "max_side",
  "quick_side",
  "clear",
  "min_score",
  "min_size",
  "bystander",
  "min_sharpness",
  "edge",
  "max_megapixels",
] as const satisfies (keyof Description["limits"])[];
const DETECTOR_SETTINGS = [
  "min_face",
  "scale",
  "proposed",
  "refined",
  "reported",
  "aligned_score",
  "aligned_offset",
] as const satisfies (keyof DetectorSettings)[];

export type Progress = (loaded: number, total: number, file: string) => void;

/** An artefact, with all its files in memory. */
export interface Artefact {
  manifest: Manifest;
  description: Description;
  /** Content by name within the folder of the artefact. */
  files: Record<string, Uint8Array>;
  /** The runtime's WebAssembly. */
  runtime: Uint8Array;
}

/** Fetch manifest, description and files of an artefact, and the runtime's binary at `runtimeUrl`. */
export async function fetchArtefact(
  manifestUrl: URL,
  runtimeUrl: URL,
  options: { onProgress?: Progress | undefined; verify: boolean },
): Promise<Artefact> {
  const manifest = checkedManifest(await fetchJson(manifestUrl), manifestUrl);
  await checkFingerprint(manifest, manifestUrl);
  const folder = folderOf(manifest, manifestUrl);
  const checked = async (name: string, data: Uint8Array): Promise<Uint8Array> => {
    const expected = Object.hasOwn(manifest.files, folder + name) ? manifest.files[folder + name] : undefined;
    if (expected === undefined)
      throw new ArtefactError(`${name}: expected it among the files of the manifest; it is not there`);
    if (options.verify && toHex(await sha256(data)) !== expected) {
      throw new ArtefactError(
        `${name}: the SHA-256 differs from the one in the manifest: truncated, changed or of another export; ` +
          "reload, or export it again",
      );
    }
    return data;
  };
  // Encoded, so that no name is read as an address, a query or a fragment.
  const at = (name: string): URL => new URL(`./${encodeURIComponent(folder.slice(0, -1))}/${name}`, manifestUrl);
  const text = await checked("web.json", await fetchBytes(at("web.json")));
  const description = checkedDescription(parseJson(text, "web.json"), manifest);
  const { embedder, detector } = description;
  const names = [embedder.file, "head.bin", ...Object.values(detector.files)];
  const sizes: Record<string, number> = Object.fromEntries(
    names.map((name) => [name, Number(description.bytes?.[name]) || 0]),
  );
  sizes.runtime = RUNTIME_BYTES;
  const report = progressOf(sizes, options.onProgress);
  const contents = names.map(
    async (name) => [name, await checked(name, await fetchBytes(at(name), report(name)))] as const,
  );
  const runtime = fetchBytes(runtimeUrl, report("runtime"));
  const [files, binary] = await Promise.all([Promise.all(contents), runtime]);
  return { manifest, description, files: Object.fromEntries(files), runtime: binary };
}

/** A callback for each file, that reports the sum over all. */
function progressOf(sizes: Record<string, number>, onProgress: Progress | undefined) {
  const loaded: Record<string, number> = {};
  return (name: string) => (bytes: number, length: number) => {
    sizes[name] = Math.max(sizes[name] ?? 0, length, bytes);
    loaded[name] = bytes;
    const sum = (counts: Record<string, number>): number =>
      Object.values(counts).reduce((all, count) => all + count, 0);
    onProgress?.(sum(loaded), sum(sizes), name);
  };
}

async function fetchJson(url: URL): Promise<unknown> {
  return parseJson(await fetchBytes(url), nameOf(url));
}

function parseJson(data: Uint8Array, name: string): unknown {
  try {
    return JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(data));
  } catch (error) {
    throw new ArtefactError(`${name}: expected JSON, received something else; export it again`, { cause: error });
  }
}

async function fetchBytes(url: URL, report?: (bytes: number, length: number) => void): Promise<Uint8Array> {
  const name = nameOf(url);
  if (url.protocol === "file:") {
    const data = await readFile(url, name);
    report?.(data.length, data.length);
    return data;
  }
  try {
    const response = await fetch(url, { credentials: "same-origin" });
    if (!response.ok)
      throw new ArtefactError(`${name}: the server answered ${response.status}; is the artefact complete?`);
    if (!response.body || !report) return new Uint8Array(await response.arrayBuffer());
    const isPlain = response.headers.get("Content-Encoding") === null; // else its length is that of the compressed body
    return await readBody(response.body, (isPlain && Number(response.headers.get("Content-Length"))) || 0, report);
  } catch (error) {
    if (error instanceof ArtefactError) throw error;
    throw new ArtefactError(`${name}: cannot be fetched; is there a network?`, { cause: error });
  }
}

async function readBody(
  body: ReadableStream<Uint8Array>,
  length: number,
  report: (bytes: number, length: number) => void,
): Promise<Uint8Array> {
  const parts: Uint8Array[] = [];
  let loaded = 0;
  const reader = body.getReader();
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    parts.push(part.value);
    loaded += part.value.length;
    report(loaded, length);
  }
  const data = new Uint8Array(loaded);
  let at = 0;
  for (const part of parts) {
    data.set(part, at);
    at += part.length;
  }
  return data;
}

/** A local file, under Node.js. */
async function readFile(url: URL, name: string): Promise<Uint8Array> {
  const module = "node:fs/promises"; // by a name that bundlers for browsers do not follow
  try {
    const files = (await import(/* @vite-ignore */ module)) as { readFile(path: URL): Promise<Uint8Array> };
    return new Uint8Array(await files.readFile(url));
  } catch (error) {
    throw new ArtefactError(`${name}: cannot be read`, { cause: error });
  }
}

function nameOf(url: URL): string {
  return url.pathname.split("/").pop() || url.pathname;
}

function checkedManifest(found: unknown, url: URL): Manifest {
  const name = nameOf(url);
  if (typeof found !== "object" || found === null || (found as Manifest).format !== FORMAT) {
    throw new ArtefactError(
      `${name}: expected a manifest of format ${FORMAT}; export the hasher again with iom deploy --to web`,
    );
  }
  const manifest = found as Manifest;
  if (manifest.target !== TARGET) {
    throw new ArtefactError(
      `${name}: expected an artefact of iom deploy --to web, received one for ${String(manifest.target).slice(0, 100)}`,
    );
  }
  const counts = ["input_size", "embedding_size", "code_length", "alphabet_size", "key_size"] as const;
  const isWhole = counts.every((field) => Number.isSafeInteger(manifest[field]) && manifest[field] > 0);
  const isListed = typeof manifest.files === "object" && manifest.files !== null;
  if (
    !isWhole ||
    !isListed ||
    !Object.hasOwn(DERIVATIONS, manifest.key_kind) ||
    typeof manifest.fingerprint !== "string"
  ) {
    throw new ArtefactError(`${name}: the manifest is damaged, or of another version; export the hasher again`);
  }
  return manifest;
}

/** Refuse a manifest whose fingerprint is not that of its files, precision and derivation of keys. */
async function checkFingerprint(manifest: Manifest, url: URL): Promise<void> {
  const files = Object.entries(manifest.files).sort(([a], [b]) => (a < b ? -1 : 1));
  const listed = files.map(([file, digest]) => `${asciiJson(file)}: ${asciiJson(digest)}`).join(", ");
  const rest = [manifest.precision, DERIVATIONS[manifest.key_kind]].map(asciiJson).join(", ");
  const text = `["iom/artefact/v1", {${listed}}, ${rest}]`;
  if (toHex(await sha256(new TextEncoder().encode(text))) !== manifest.fingerprint) {
    throw new ArtefactError(
      `${nameOf(url)}: the manifest was changed: its fingerprint does not hold; export the hasher again`,
    );
  }
}

/** A text as JSON of ASCII alone, as Python writes it. */
function asciiJson(text: string): string {
  const escaped = (unit: string): string => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`;
  return JSON.stringify(text).replace(/[\u007f-\uffff]/g, escaped);
}

/** Folder of the artefact in the names of the manifest, with a slash behind it. */
function folderOf(manifest: Manifest, url: URL): string {
  const found = Object.keys(manifest.files).find((file) => /^[^/\\]+\/web\.json$/.test(file));
  if (found === undefined || found.startsWith("..") || !found.isWellFormed()) {
    throw new ArtefactError(`${nameOf(url)}: expected a file NAME.web/web.json in the manifest, received none`);
  }
  return found.slice(0, -"web.json".length);
}

function checkedDescription(found: unknown, manifest: Manifest): Description {
  const description = found as Description;
  if (typeof found !== "object" || found === null || description.format !== FORMAT) {
    throw new ArtefactError(`web.json: expected format ${FORMAT}, received another; export the hasher again`);
  }
  if (description.key?.derivation !== DERIVATIONS[manifest.key_kind] || description.key.kind !== manifest.key_kind) {
    throw new ArtefactError(
      "web.json: its keys are derived in another way than this library knows; use the one of its version",
    );
  }
  const names = [description.embedder?.file, ...Object.values(description.detector?.files ?? {})];
  if (names.length !== 4 || !names.every((name) => typeof name === "string" && /^[\w.-]+$/.test(name))) {
    throw new ArtefactError("web.json: expected the files of an embedder and of a detector; export the hasher again");
  }
  const { embedder, template, limits, head } = description;
  const numbers = [embedder.size, embedder.mean, embedder.scale, template?.size, template?.scale];
  const pairs = [template?.shift, ...(Array.isArray(template?.landmarks) ? template.landmarks : [])];
  const isWhole =
    numbers.every(Number.isFinite) &&
    LIMITS.every((name) => Number.isFinite(limits?.[name])) &&
    DETECTOR_SETTINGS.every((name) => Number.isFinite(description.detector[name])) &&
    pairs.length === 6 &&
    pairs.every((pair) => Array.isArray(pair) && pair.length === 2 && pair.every(Number.isFinite)) &&
    Array.isArray(head?.steps) &&
    typeof head.arrays === "object" &&
    head.arrays !== null;
  if (!isWhole) throw new ArtefactError("web.json: damaged, or of another version; export the hasher again");
  return description;
}
