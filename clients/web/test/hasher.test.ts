import { readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { createServer, type Server } from "node:http";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { ArtefactError, Code, FaceError, Hasher, KeyMaterialError, TransformKey } from "../src/index.js";
import { RUNTIME_BINARY, RUNTIME_BYTES } from "../src/runtime.js";
import { makeArtefact, RUNTIME_FOLDER, write, type Made } from "./made_artefact.js";

const written: URL[] = [];
const put: typeof write = (...made) => {
  const url = write(...made);
  written.push(url);
  return url;
};
const load = (url: URL | string, verify = true) => Hasher.load(url, { wasmPaths: RUNTIME_FOLDER, verify });
afterAll(() => written.forEach((url) => rmSync(dirname(fileURLToPath(url)), { recursive: true })));

/** Pixels of a chip or a crop that look like nothing. */
const noise = (count: number) =>
  Uint8Array.from({ length: count }, (_, i) => Math.abs(Math.sin(i * 12.9898) * 43758.5453) % 256);
const blank = (width: number, height: number, colour = 128) => {
  const data = new Uint8Array(4 * width * height).fill(colour);
  for (let i = 3; i < data.length; i += 4) data[i] = 255;
  return { data, width, height };
};

describe("a hasher", () => {
  let hasher: Hasher;
  beforeAll(async () => {
    hasher = await load(put(makeArtefact()));
  });

  it("says what its manifest says", () => {
    expect([hasher.codeLength, hasher.alphabetSize, hasher.threshold]).toEqual([64, 4, 20]);
    expect(hasher.fingerprint).toMatch(/^[0-9a-f]{64}$/);
  });

  it("embeds and hashes a chip, the same each time, and otherwise under another key", async () => {
    const chip = { pixels: noise(3 * 150 * 150), size: 150 };
    const embedding = await hasher.embed(chip);
    expect(Math.hypot(...embedding)).toBeCloseTo(1, 5);
    const [key, other] = [await TransformKey.generate(), await TransformKey.generate()];
    const code = await hasher.hash(chip, key);
    expect(code).toBeInstanceOf(Code);
    expect((await hasher.hash(embedding, key)).symbols).toEqual(code.symbols);
    expect((await hasher.hash(embedding, other)).symbols).not.toEqual(code.symbols);
  });

  it.each(["tür.web", "a b#c.web", "50%.web", "http:.web"])("loads an artefact of whatever name: %s", async (name) => {
    expect((await load(put(makeArtefact(), undefined, name))).codeLength).toBe(64);
  });

  it("runs several calls at once as if one by one", async () => {
    const chips = [1, 2, 3].map((i) => ({ pixels: noise(3 * 150 * 150).map((value) => (value * i) % 256), size: 150 }));
    const alone = [];
    for (const chip of chips) alone.push(await hasher.embed(chip));
    expect(await Promise.all(chips.map((chip) => hasher.embed(chip)))).toEqual(alone);
  });

  it("makes a chip of an ArcFace crop", async () => {
    const embedding = await hasher.embed({ pixels: noise(3 * 112 * 112), size: 112 });
    expect(embedding.length).toBe(128);
  });

  it.each<[string, number, number, string]>([
    ["a picture of one colour", 300, 200, "no_face"],
    ["a tiny picture", 5, 3, "no_face"],
    ["an aligned picture of one colour", 112, 112, "too_blurred"],
  ])("finds no face in %s, and says what to do", async (_, width, height, status) => {
    const error = (await hasher.oneFace(blank(width, height)).catch((found: unknown) => found)) as FaceError;
    expect(error).toBeInstanceOf(FaceError);
    expect(error.status).toBe(status);
    expect(error.message).toMatch(/; (show|take)/);
  });

  it("takes noise of the size of an aligned face for no face", async () => {
    const picture = blank(112, 112);
    picture.data.set(noise(picture.data.length).map((value, i) => (i % 4 === 3 ? 255 : value)));
    await expect(hasher.oneFace(picture)).rejects.toMatchObject({ status: "no_face" });
  });

  it("refuses chips, embeddings and keys of another kind", async () => {
    const key = await TransformKey.generate();
    await expect(hasher.embed({ pixels: new Uint8Array(10), size: 150 })).rejects.toThrow(FaceError);
    await expect(hasher.embed({ pixels: new Uint8Array(3 * 100 * 100), size: 100 })).rejects.toThrow(FaceError);
    await expect(hasher.hash(new Float32Array(127), key)).rejects.toThrow(ArtefactError);
    await expect(hasher.hash(new Float32Array(128).fill(Number.NaN), key)).rejects.toThrow(ArtefactError);
    await expect(hasher.hash(new Float32Array(128), "iom-key-1:..." as unknown as TransformKey)).rejects.toThrow(
      KeyMaterialError,
    );
  });
});

describe("an artefact", () => {
  const FILES = ["web.json", "head.bin", "embedder.onnx", "pnet.onnx", "rnet.onnx", "onet.onnx"];
  const flip = (file: string) => (folder: string) => {
    const path = join(folder, "made.web", file);
    const data = readFileSync(path);
    data[Math.floor(data.length / 2)] ^= 1;
    writeFileSync(path, data);
  };

  it.each(FILES)("is refused with one bit changed in %s", async (file) => {
    await expect(load(put(makeArtefact(), flip(file)))).rejects.toThrow(/SHA-256 differs/);
  });

  it.each(FILES)("is refused with %s cut short", async (file) => {
    const cut = (folder: string) =>
      writeFileSync(join(folder, "made.web", file), readFileSync(join(folder, "made.web", file)).subarray(0, -1));
    await expect(load(put(makeArtefact(), cut))).rejects.toThrow(ArtefactError);
  });

  it.each(FILES)("is refused without %s", async (file) => {
    await expect(load(put(makeArtefact(), (folder) => rmSync(join(folder, "made.web", file))))).rejects.toThrow(
      /cannot be read/,
    );
  });

  it("is taken with other weights only where nobody asks for a check", async () => {
    await expect(load(put(makeArtefact(), flip("head.bin")), false)).resolves.toBeInstanceOf(Hasher);
  });

  it.each<[string, (manifest: Record<string, any>) => void]>([
    ["the SHA-256 of another file", (manifest) => (manifest.files["made.web/head.bin"] = "0".repeat(64))],
    ["one file fewer", (manifest) => delete manifest.files["made.web/head.bin"]],
    ["another precision", (manifest) => (manifest.precision = "float16")],
    ["another kind of key", (manifest) => (manifest.key_kind = "permutation")],
    ["an unknown kind of key", (manifest) => (manifest.key_kind = "constructor")],
    ["another target", (manifest) => (manifest.target = "tfjs")],
    ["another format", (manifest) => (manifest.format = 2)],
    ["no files", (manifest) => (manifest.files = null)],
    ["a size that is no number", (manifest) => (manifest.code_length = "64")],
  ])("is refused with a manifest that has %s", async (_, change) => {
    const changed = (folder: string) => {
      const path = join(folder, "made.web.json");
      const manifest = JSON.parse(readFileSync(path, "utf8"));
      change(manifest);
      writeFileSync(path, JSON.stringify(manifest));
    };
    await expect(load(put(makeArtefact(), changed))).rejects.toThrow(ArtefactError);
  });

  it.each<[string, (made: Made) => void]>([
    ["a file outside of its folder", ({ description }) => (description.embedder.file = "../made.web.json")],
    ["another way to derive keys", ({ description }) => (description.key.derivation = "iom/orthogonal/v2")],
    ["another format", ({ description }) => (description.format = 2)],
    ["no hash", ({ description }) => delete description.head],
    ["a hash without steps", ({ description }) => (description.head.steps = {})],
    ["a step without settings", ({ description }) => delete description.head.steps[0].settings],
    ["no limits", ({ description }) => delete description.limits],
    ["a limit that is no number", ({ description }) => (description.limits.min_score = "0.9")],
    ["a landmark fewer", ({ description }) => description.template.landmarks.pop()],
    ["no detector", ({ description }) => delete description.detector],
    ["an unknown step", ({ description }) => (description.head.steps[0].step = "tanh")],
    ["an input that the network has not", ({ description }) => (description.embedder.input = "x")],
    ["a file that is no network", ({ files }) => (files["pnet.onnx"] = new Uint8Array(100))],
  ])("is refused with %s, though all SHA-256 hold", async (_, change) => {
    const made = makeArtefact();
    change(made);
    await expect(load(put(made))).rejects.toThrow(ArtefactError);
  });

  it.each(["", "null", "[]", "{", '"text"', "\xff\xfe"])("is refused with the manifest %j", async (text) => {
    const changed = (folder: string) => writeFileSync(join(folder, "made.web.json"), text, "latin1");
    await expect(load(put(makeArtefact(), changed))).rejects.toThrow(ArtefactError);
  });
});

describe("an artefact of a server", () => {
  let server: Server;
  let base: string;
  let folder: string;
  beforeAll(async () => {
    folder = dirname(fileURLToPath(put(makeArtefact())));
    server = createServer((request, response) => {
      const name = request.url!.slice(1);
      const path = name.startsWith("ort") ? fileURLToPath(new URL(name, RUNTIME_FOLDER)) : join(folder, name);
      try {
        response.end(readFileSync(path));
      } catch {
        response.writeHead(404).end();
      }
    });
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    base = `http://127.0.0.1:${(server.address() as { port: number }).port}/`;
  });
  afterAll(() => server.close());

  it("is loaded with a progress that only grows and ends with all", async () => {
    const seen: [number, number, string][] = [];
    const onProgress = (...progress: [number, number, string]) => void seen.push(progress);
    const wasmPaths = RUNTIME_FOLDER; // Node.js imports no modules from servers
    await Hasher.load(`${base}made.web.json`, { onProgress, wasmPaths });
    const loaded = seen.map(([bytes]) => bytes);
    expect(loaded).toEqual(loaded.toSorted((a, b) => a - b));
    expect(new Set(seen.map(([, total]) => total)).size).toBe(1);
    expect(seen.at(-1)![0]).toBe(seen.at(-1)![1]);
    expect(new Set(seen.map(([, , file]) => file))).toEqual(
      new Set(["embedder.onnx", "head.bin", "pnet.onnx", "rnet.onnx", "onet.onnx", "runtime"]),
    );
  });

  it("is refused where it is missing or the server is gone", async () => {
    await expect(load(`${base}other.web.json`)).rejects.toThrow(/answered 404/);
    await expect(load("http://127.0.0.1:9/made.web.json")).rejects.toThrow(/cannot be fetched/);
  });
});

it("knows the size of its runtime", () => {
  expect(statSync(new URL(RUNTIME_BINARY, RUNTIME_FOLDER)).size).toBe(RUNTIME_BYTES);
});
