/** A small artefact of the networks in the Python package and a hash of 64 x 4 symbols. */

import { createHash } from "node:crypto";
import { mkdirSync, mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { ROOT } from "./vectors.js";

export const RUNTIME_FOLDER = pathToFileURL(`${ROOT}clients/web/node_modules/onnxruntime-web/dist/`);
export const NETWORKS = ["pnet", "rnet", "onet"].map((name) => `${ROOT}iom/photos/mtcnn.bundled/${name}.onnx`);
/** Settings of the packaged detector. */
export const DETECTOR = {
  min_face: 20,
  scale: 0.709,
  proposed: 0.6,
  refined: 0.7,
  reported: 0.3,
  aligned_score: 0.9,
  aligned_offset: 18,
};
const EMBEDDER = `${ROOT}iom/pretrained/dlib_resnet.bundled/dlib_resnet.onnx`;
const LANDMARKS = [
  [38.2946, 51.6963],
  [73.5318, 51.5014],
  [56.0252, 71.7366],
  [41.5493, 92.3655],
  [70.7299, 92.2041],
];
const LENGTH = 64;
const ALPHABET = 4;

export interface Made {
  files: Record<string, Uint8Array>;
  description: Record<string, any>;
  manifest: Record<string, any>;
}

const digest = (data: Uint8Array | string): string => createHash("sha256").update(data).digest("hex");
const utf8 = (value: unknown): Uint8Array => new TextEncoder().encode(JSON.stringify(value));

/** An artefact in memory, to be changed before `write`. */
export function makeArtefact(): Made {
  const kernel = Float32Array.from({ length: 128 * LENGTH * ALPHABET }, (_, i) => Math.sin(i * 78.233) % 1);
  const [pnet, rnet, onet] = NETWORKS.map((path) => new Uint8Array(readFileSync(path)));
  const files = {
    "embedder.onnx": new Uint8Array(readFileSync(EMBEDDER)),
    "head.bin": new Uint8Array(kernel.buffer),
    "pnet.onnx": pnet,
    "rnet.onnx": rnet,
    "onet.onnx": onet,
  };
  const refinement = { alphabet_size: ALPHABET, steps: 4, gain: 4, rate: 1, decay: 0.5 };
  const description = {
    format: 1,
    embedder: {
      file: "embedder.onnx",
      input: "image",
      output: "embedding",
      layout: "NHWC",
      colour_order: "RGB",
      mean: 0,
      scale: 1,
      size: 150,
    },
    template: { name: "dlib", size: 150, scale: 1.491, shift: [-9.4, -29.8], landmarks: structuredClone(LANDMARKS) },
    detector: {
      name: "mtcnn",
      files: { pnet: "pnet.onnx", rnet: "rnet.onnx", onet: "onet.onnx" },
      ...DETECTOR,
    },
    head: {
      steps: [
        { step: "unit", reads: [0], settings: {}, arrays: {} },
        { step: "rotation", reads: [2, 1], settings: { keep: 0 }, arrays: {} },
        { step: "projection", reads: [3], settings: refinement, arrays: { kernel: "kernel" } },
      ],
      arrays: { kernel: { dtype: "float32", shape: [128, LENGTH * ALPHABET], offset: 0 } },
    },
    key: { kind: "orthogonal", derivation: "iom/orthogonal/v1", size: 128, keep: 0 },
    bytes: Object.fromEntries(Object.entries(files).map(([name, data]) => [name, data.length])),
    limits: {
      max_side: 1024,
      quick_side: 640,
      clear: 64,
      min_score: 0.9,
      min_size: 32,
      bystander: 0.5,
      min_sharpness: 2,
      edge: 16,
      max_megapixels: 64,
    },
  };
  const manifest = {
    format: 1,
    target: "web",
    runtime: "web",
    precision: "float32",
    input_size: 150,
    embedding_size: 128,
    code_length: LENGTH,
    alphabet_size: ALPHABET,
    keep: 0,
    key_size: 128,
    key_kind: "orthogonal",
    template: "dlib",
    calibration: { threshold: 20 },
  };
  return { files, description, manifest };
}

/** Write an artefact, with the SHA-256 of what it is now; `change` is done to what lies there afterwards. */
export function write(
  { files, description, manifest }: Made,
  change?: (folder: string) => void,
  name = "made.web",
): URL {
  const folder = mkdtempSync(join(tmpdir(), "iom-web-"));
  mkdirSync(join(folder, name));
  const all: Record<string, Uint8Array> = { ...files, "web.json": utf8(description) };
  for (const [file, data] of Object.entries(all)) writeFileSync(join(folder, name, file), data);
  const listed = Object.fromEntries(Object.entries(all).map(([file, data]) => [`${name}/${file}`, digest(data)]));
  const path = join(folder, `${name}.json`);
  writeFileSync(path, JSON.stringify({ ...manifest, files: listed, fingerprint: fingerprint(listed) }));
  change?.(folder);
  return pathToFileURL(path);
}

/** As Python makes it: what is not ASCII is escaped. */
function fingerprint(files: Record<string, string>): string {
  const listed = Object.keys(files)
    .sort()
    .map((name) => `"${name.replace("ü", "\\u00fc")}": "${files[name]}"`)
    .join(", ");
  return digest(`["iom/artefact/v1", {${listed}}, "float32", "iom/orthogonal/v1"]`);
}
