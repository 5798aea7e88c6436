/** ONNX networks under onnxruntime-web, in WebAssembly. */

import * as ort from "onnxruntime-web/wasm";
import { ArtefactError } from "./errors.js";

/** Answers of a network on one input of these sizes. */
export type Network = (data: Float32Array, dims: number[]) => Promise<{ data: Float32Array; dims: readonly number[] }>;

export const RUNTIME_BINARY = "ort-wasm-simd-threaded.wasm";
/** Its size, for the progress: what a server compresses comes without a length. */
export const RUNTIME_BYTES = 14_239_897;
const MAX_THREADS = 4;

/** Set up the runtime; only the first call of a page has an effect. */
export function startRuntime(folder: URL, binary: Uint8Array, threads: number): void {
  ort.env.wasm.wasmPaths = folder.href;
  ort.env.wasm.wasmBinary = binary;
  ort.env.wasm.numThreads = threads;
  ort.env.logLevel = "error";
}

/** Threads of the networks here: half of the cores, as waiting ones spin; one where memory cannot be shared. */
export function usableThreads(): number {
  const isIsolated = (globalThis as { crossOriginIsolated?: boolean }).crossOriginIsolated === true;
  return isIsolated ? Math.min(MAX_THREADS, Math.max(1, Math.floor(navigator.hardwareConcurrency / 2))) : 1;
}

/** The network of an ONNX file; `output` is the name of its answer, by default its only one. */
export async function openNetwork(file: string, model: Uint8Array, input: string, output?: string): Promise<Network> {
  let session: ort.InferenceSession;
  try {
    session = await ort.InferenceSession.create(model, { executionProviders: ["wasm"], graphOptimizationLevel: "all" });
  } catch (error) {
    throw new ArtefactError(`${file}: the runtime cannot open it: ${(error as Error).message}`, { cause: error });
  }
  const answer = output ?? session.outputNames[0];
  if (!session.inputNames.includes(input) || !session.outputNames.includes(answer)) {
    throw new ArtefactError(
      `${file}: expected the input ${input} and the output ${answer}, received ${session.inputNames.join(", ")} and ` +
        session.outputNames.join(", "),
    );
  }
  return async (data, dims) => {
    const found = (await session.run({ [input]: new ort.Tensor("float32", data, dims) }, [answer]))[answer];
    return { data: found.data as Float32Array, dims: found.dims };
  };
}
