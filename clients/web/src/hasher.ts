/** The hasher of an artefact: from pictures to codes. */

import type { Code } from "./codes.js";
import { ArtefactError } from "./errors.js";
import type { Chip, Face, Picture } from "./images.js";
import type { KeyKind, TransformKey } from "./keys.js";

/** How to load a hasher. */
export interface LoadOptions {
  /** Called while files come: bytes so far, bytes in all, and the file. */
  onProgress?: (loaded: number, total: number, file: string) => void;
  /** Folder of `ort-wasm-simd-threaded.mjs` and `.wasm`; by default that of this module. */
  wasmPaths?: string | URL;
  /** Threads of the networks; by default one for each core where the page is cross-origin isolated, else 1. */
  threads?: number;
  /** Check the SHA-256 of each file against the manifest (default true). */
  verify?: boolean;
}

/** The manifest of a web artefact, the fields that this library reads. */
export interface Manifest {
  format: number;
  target: string;
  runtime: string;
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
  calibration: { threshold: number; [name: string]: unknown } | null;
  [name: string]: unknown;
}

/** Detector, network and hash of one artefact. */
export class Hasher {
  readonly manifest: Manifest;

  private constructor(manifest: Manifest) {
    this.manifest = manifest;
  }

  /** Load the artefact of a manifest, `NAME.web.json`. */
  static async load(_manifestUrl: string | URL, _options: LoadOptions = {}): Promise<Hasher> {
    throw new ArtefactError("artefacts cannot be loaded yet");
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

  /** Largest distance that is a match, where the hasher was calibrated. */
  get threshold(): number | undefined {
    return this.manifest.calibration?.threshold;
  }

  /** Faces of a picture, best score first. */
  async faces(_picture: Picture): Promise<Face[]> {
    throw new ArtefactError("faces cannot be found yet");
  }

  /** The one face of a picture that a comparison takes; a picture that is an aligned face already has no `face`. */
  async oneFace(_picture: Picture): Promise<{ chip: Chip; face?: Face }> {
    throw new ArtefactError("faces cannot be found yet");
  }

  /** The aligned face as the network takes it. */
  async chip(_picture: Picture, _face: Face): Promise<Chip> {
    throw new ArtefactError("faces cannot be aligned yet");
  }

  /** Embedding of unit length of the one face of a picture, or of a chip. */
  async embed(_source: Picture | Chip): Promise<Float32Array> {
    throw new ArtefactError("faces cannot be embedded yet");
  }

  /** Code of a picture, a chip or an embedding under a key. */
  async hash(_source: Picture | Chip | Float32Array, _key: TransformKey): Promise<Code> {
    throw new ArtefactError("faces cannot be hashed yet");
  }
}
