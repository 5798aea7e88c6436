/** The hasher of an artefact: from pictures to codes. */

import { align, chipOfCrop, faceSize, sharpnessOf, SIZE, type Template } from "./align.js";
import { unit } from "./arithmetic.js";
import { fetchArtefact, type Artefact, type Description, type Manifest, type Progress } from "./artefact.js";
import { Code } from "./codes.js";
import { Detector, roundHalfEven } from "./detector.js";
import { ArtefactError, FaceError, KeyMaterialError, type FaceStatus } from "./errors.js";
import { Head } from "./head.js";
import { pixelsOf, type Chip, type Face, type Picture, type Pixels } from "./images.js";
import { TransformKey } from "./keys.js";
import { resized } from "./resampling.js";
import { openNetwork, RUNTIME_BINARY, startRuntime, usableThreads, type Network } from "./runtime.js";

/** How to load a hasher. */
export interface LoadOptions {
  /** Called while files come: bytes so far, bytes in all, and the file. */
  onProgress?: Progress;
  /** Folder of `ort-wasm-simd-threaded.mjs` and `.wasm`; by default that of this module. */
  wasmPaths?: string | URL;
  /** Threads of the networks; by default half of the cores, at most four; 1 where the page is not isolated. */
  threads?: number;
  /** Check the SHA-256 of each file against the manifest (default true). */
  verify?: boolean;
}

const ADVICE: Partial<Record<FaceStatus, string>> = {
  no_face: "show it upright, from the front, well lit and not covered",
  too_small: "take it from nearer, or with more pixels",
  several_faces: "cut the picture to one person",
  too_blurred: "take a sharper picture",
};

/** Detector, network and hash of one artefact. */
export class Hasher {
  readonly manifest: Manifest;
  readonly #description: Description;
  readonly #detector: Detector;
  readonly #embedder: Network;
  readonly #head: Head;

  private constructor(artefact: Artefact, detector: Detector, embedder: Network, head: Head) {
    this.manifest = artefact.manifest;
    this.#description = artefact.description;
    this.#detector = detector;
    this.#embedder = embedder;
    this.#head = head;
  }

  /**
   * Load the artefact of a manifest, `NAME.web.json`.
   *
   * An `ArtefactError` where a file is missing, is not what the manifest says, or cannot be run.
   */
  static async load(manifestUrl: string | URL, options: LoadOptions = {}): Promise<Hasher> {
    const place = globalThis.location?.href;
    const manifest = new URL(manifestUrl, place);
    const folder = new URL(options.wasmPaths ?? new URL("./", import.meta.url), place);
    if (!folder.pathname.endsWith("/")) folder.pathname += "/";
    const { onProgress, verify = true } = options;
    const artefact = await fetchArtefact(manifest, new URL(RUNTIME_BINARY, folder), { onProgress, verify });
    const { description, files } = artefact;
    const head = new Head(description.head, files["head.bin"], artefact.manifest.alphabet_size);
    startRuntime(folder, artefact.runtime, options.threads ?? usableThreads());
    const { embedder, detector } = description;
    const opened = (name: "pnet" | "rnet" | "onet"): Promise<Network> =>
      openNetwork(detector.files[name], files[detector.files[name]], "image");
    const network = await openNetwork(embedder.file, files[embedder.file], embedder.input, embedder.output);
    const networks = { pnet: await opened("pnet"), rnet: await opened("rnet"), onet: await opened("onet") };
    return new Hasher(artefact, new Detector(networks, detector), network, head);
  }

  /** SHA-256 of all that the codes depend on; codes of two fingerprints never compare. */
  get fingerprint(): string {
    return this.manifest.fingerprint;
  }

  /** M, symbols of a code. */
  get codeLength(): number {
    return this.manifest.code_length;
  }

  /** Q, values of a symbol. */
  get alphabetSize(): number {
    return this.manifest.alphabet_size;
  }

  /** Largest distance that is a match; `undefined` where the hasher is not calibrated for codes compared by symbols. */
  get threshold(): number | undefined {
    const found = this.manifest.calibration;
    return found && (found.comparison ?? "symbols") === "symbols" ? found.threshold : undefined;
  }

  /** Faces of a picture of a score that counts, best first. */
  async faces(picture: Picture): Promise<Face[]> {
    return this.#found(await this.#pixels(picture), this.#description.limits.max_side);
  }

  /** The aligned face as the network takes it. */
  async chip(picture: Picture, face: Face): Promise<Chip> {
    return this.#chip(await this.#pixels(picture), face);
  }

  /**
   * The one face of a picture that a comparison takes: the largest, where no other is nearly as large.
   *
   * A picture of exactly 112 x 112 pixels is a face that is aligned already. A `FaceError` says why there is none.
   */
  async oneFace(picture: Picture): Promise<{ chip: Chip; face?: Face }> {
    try {
      return await this.#oneFace(await this.#pixels(picture));
    } catch (error) {
      const advice = error instanceof FaceError ? ADVICE[error.status] : undefined;
      if (!(error instanceof FaceError) || advice === undefined) throw error;
      throw new FaceError(`${error.message}; ${advice}`, error.status);
    }
  }

  /** Embedding of unit length of the one face of a picture, or of a chip. */
  async embed(source: Picture | Chip): Promise<Float32Array> {
    const { pixels, size } = isChip(source) ? source : (await this.oneFace(source)).chip;
    const { embedder } = this.#description;
    let given = pixels;
    if (size === SIZE && embedder.size !== SIZE && pixels.length === 3 * SIZE * SIZE)
      given = chipOfCrop(pixels, this.#template);
    if (given.length !== 3 * embedder.size ** 2) {
      throw new FaceError(
        `chip: expected RGB bytes of ${embedder.size} x ${embedder.size} pixels, received ${pixels.length}`,
        "wrong_type",
      );
    }
    const { data } = await this.#embedder(this.#input(given), this.#dims);
    const row = unit(data);
    if (row.length !== this.manifest.embedding_size || !row.every(Number.isFinite)) {
      throw new FaceError("the network has no embedding for this face; take another picture", "not_embedded");
    }
    return row;
  }

  /** Code of a picture, a chip or an embedding under a key. */
  async hash(source: Picture | Chip | Float32Array, key: TransformKey): Promise<Code> {
    if (!(key instanceof TransformKey)) throw new KeyMaterialError(`expected a TransformKey, received ${typeof key}`);
    const { kind, size, keep } = this.#description.key;
    const order = await key.order(kind, size, keep);
    const embedding = source instanceof Float32Array ? source : await this.embed(source);
    if (embedding.length !== this.manifest.embedding_size || !embedding.every(Number.isFinite)) {
      throw new ArtefactError(
        `embedding: expected ${this.manifest.embedding_size} finite numbers, received ${embedding.length}; ` +
          "is it of this hasher?",
      );
    }
    return new Code(this.#head.hash(embedding, order), this.alphabetSize);
  }

  get #template(): Template {
    return this.#description.template;
  }

  get #dims(): number[] {
    const { layout, size } = this.#description.embedder;
    return layout === "NCHW" ? [1, 3, size, size] : [1, size, size, 3];
  }

  /** Pixels as the network takes them. */
  #input(pixels: Uint8Array): Float32Array {
    const { layout, colour_order, mean, scale, size } = this.#description.embedder;
    const values = new Float32Array(pixels.length);
    const plane = size * size;
    const [factor, offset] = [Math.fround(scale), Math.fround(-mean * scale)];
    for (let place = 0; place < plane; place++) {
      for (let band = 0; band < 3; band++) {
        const value = Math.fround(pixels[3 * place + (colour_order === "BGR" ? 2 - band : band)] * factor) + offset;
        values[layout === "NCHW" ? band * plane + place : 3 * place + band] = value;
      }
    }
    return values;
  }

  #pixels(picture: Picture): Promise<Pixels> {
    return pixelsOf(picture, this.#description.limits.max_megapixels);
  }

  #chip(image: Pixels, face: Face): Chip {
    return { pixels: align(image, face.points, this.#template), size: this.#template.size };
  }

  /** Faces of pixels that are shrunk to a side for the detector; landmarks are those of the pixels given. */
  async #found(image: Pixels, maxSide: number): Promise<Face[]> {
    const { min_score } = this.#description.limits;
    const shrink = Math.min(1, maxSide / Math.max(image.width, image.height));
    if (shrink === 1) return (await this.#detector.faces(image)).filter(({ score }) => score >= min_score);
    const [width, height] = [image.width, image.height].map((side) => Math.max(1, roundHalfEven(side * shrink)));
    const found = await this.#detector.faces(resized(image, width, height));
    const [across, down] = [image.width / width, image.height / height];
    return found
      .filter(({ score }) => score >= min_score)
      .map(({ points, score }) => ({
        points: points.map(([x, y]) => [(x + 0.5) * across - 0.5, (y + 0.5) * down - 0.5]),
        score,
      }));
  }

  /** Faces, looked for in a smaller picture first, and in a larger one where there is no large face. */
  async #quicklyFound(image: Pixels): Promise<Face[]> {
    const { quick_side, max_side, clear } = this.#description.limits;
    const shrink = quick_side / Math.max(image.width, image.height);
    if (shrink < 1 && max_side > quick_side) {
      const found = await this.#found(image, quick_side);
      if (found.some(({ points }) => faceSize(points, this.#template.landmarks) * shrink >= clear)) return found;
    }
    return this.#found(image, max_side);
  }

  async #oneFace(image: Pixels): Promise<{ chip: Chip; face?: Face }> {
    const { edge, min_sharpness } = this.#description.limits;
    const isAligned = image.width === SIZE && image.height === SIZE;
    const face = isAligned ? undefined : this.#dominant(await this.#quicklyFound(image), image);
    const crop = face ? align(image, face.points, this.#arcFace) : image.data;
    const sharpness = sharpnessOf(crop, edge);
    if (sharpness < min_sharpness) {
      throw new FaceError(
        `picture: expected a face of sharpness ${min_sharpness} or more, found ${sharpness.toFixed(1)}`,
        "too_blurred",
      );
    }
    if (face) return { chip: this.#chip(image, face), face };
    if (!(await this.#detector.holdsFace(image, this.#template.landmarks))) {
      throw new FaceError("picture: expected an aligned face of 112x112 pixels, found none", "no_face");
    }
    return { chip: { pixels: chipOfCrop(crop, this.#template), size: this.#template.size } };
  }

  get #arcFace(): Omit<Template, "name"> {
    return { size: SIZE, scale: 1, shift: [0, 0], landmarks: this.#template.landmarks };
  }

  /** The largest face, where no other is nearly as large. */
  #dominant(faces: Face[], image: Pixels): Face {
    const { min_size, bystander } = this.#description.limits;
    if (faces.length === 0) throw new FaceError("picture: expected a face, found none", "no_face");
    const sizes = faces.map((face) => sizeWithin(image, face, this.#template));
    const largest = Math.max(...sizes);
    if (largest < 0) throw new FaceError("landmarks: all five lie outside of the picture", "bad_landmarks");
    const usable = faces.map((_, i) => i).filter((i) => sizes[i] >= min_size);
    if (usable.length === 0) {
      throw new FaceError(
        `picture: expected a face of ${min_size} pixels or more, found one of ${largest.toFixed(0)}`,
        "too_small",
      );
    }
    const [first, second] = usable.toSorted((a, b) => sizes[b] - sizes[a]);
    if (second !== undefined && sizes[second] >= bystander * sizes[first]) {
      throw new FaceError(`picture: expected one face, found ${usable.length}`, "several_faces");
    }
    return faces[first];
  }
}

/** Size of a face of which at least one landmark lies within the picture; -1 for others. */
function sizeWithin(image: Pixels, { points }: Face, template: Template): number {
  const isWithin = points.some(([x, y]) => x > -1 && y > -1 && x < image.width && y < image.height);
  if (!isWithin) return -1;
  try {
    return faceSize(points, template.landmarks);
  } catch (error) {
    if (error instanceof FaceError) return -1;
    throw error;
  }
}

function isChip(source: Picture | Chip): source is Chip {
  return typeof source === "object" && source !== null && "pixels" in source;
}
