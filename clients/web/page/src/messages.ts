/** Messages between the page and its worker. Pictures go in; keys and embeddings never come out. */

export type Action = "enroll" | "verify" | "renew" | "revoke";

/** One request that left the device, as it was handed to the browser. */
export interface SentRequest {
  /** Host and port that it went to. */
  service: string;
  /** Last part of its address, such as `verify-code`. */
  name: string;
  /** Length of the body. */
  bytes: number;
  /** Fields of the body, in its order, with their lengths. */
  fields: { name: string; bytes: number }[];
}

/** The aligned face of a picture. */
export interface FoundFace {
  /** RGBA, `(size, size, 4)`. */
  pixels: Uint8ClampedArray<ArrayBuffer>;
  size: number;
  /** Five landmarks in pixels of the picture; none of a picture that is an aligned face already. */
  points: [number, number][];
}

/** The end of an action; `code` is there as soon as one was made, also where the service refused it. */
export interface Outcome {
  /** Of HTTP; 0 where the service was not reached. */
  status: number;
  detail: string;
  match?: boolean;
  distance?: number;
  threshold?: number;
  code?: { symbols: Uint8Array; alphabetSize: number };
  sent: SentRequest[];
}

/** What a person wants; `returning` enrols somebody who was revoked. */
export interface Wish {
  action: Action;
  application: string;
  token: string;
  subject: string;
  returning: boolean;
  /** The service with the other shares of codes, and the token for it. */
  other?: { url: string; token: string } | undefined;
}

/** The calls of the page: a name, its argument and its result. */
export interface Calls {
  load: { argument: { manifest: string }; result: null };
  look: { argument: { picture: ImageBitmap }; result: FoundFace };
  act: { argument: Wish; result: Outcome };
  /** First digits of the SHA-256 of the public signing key; `null` where the device has no key yet. */
  signer: { argument: null; result: string | null };
  exportKey: { argument: null; result: { text: string; qr: string } };
  importKey: { argument: { text: string }; result: null };
  readQr: { argument: { picture: ImageBitmap }; result: string };
  deleteKey: { argument: null; result: null };
}

export type Call = keyof Calls;

export interface Request<Name extends Call = Call> {
  id: number;
  call: Name;
  argument: Calls[Name]["argument"];
}

export type Reply =
  | { id: number; result: unknown }
  | { id: number; error: string }
  | { progress: { loaded: number; total: number } };
