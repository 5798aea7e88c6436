/** Codes: symbols, their stored form in bit planes (`iom.codes.packing`), distance and XOR shares. */

import { xor, type Bytes } from "./bytes.js";
import { CodeError } from "./errors.js";

const WORD_BYTES = 8;
const MAX_CODE_LENGTH = 65536;
const MAX_ALPHABET_SIZE = 256;

/** Bits of one symbol, `ceil(log2 alphabetSize)`. */
export function planeCount(alphabetSize: number): number {
  if (!Number.isInteger(alphabetSize) || alphabetSize < 2 || alphabetSize > MAX_ALPHABET_SIZE) {
    throw new CodeError(`alphabet size: expected 2 to ${MAX_ALPHABET_SIZE}, received ${alphabetSize}`);
  }
  return 32 - Math.clz32(alphabetSize - 1);
}

/** Bytes of one stored code of `codeLength` symbols: whole 64-bit words, plane after plane. */
export function codeBytes(codeLength: number, alphabetSize: number): number {
  return planeCount(alphabetSize) * planeBytes(codeLength);
}

/** Name of the stored form, as `iom.codes.packing.encoding_id` has it. */
export function encodingId(codeLength: number, alphabetSize: number): string {
  codeBytes(codeLength, alphabetSize);
  return `iom-planes/1:${codeLength}x${alphabetSize}`;
}

function planeBytes(codeLength: number): number {
  if (!Number.isInteger(codeLength) || codeLength < 1 || codeLength > MAX_CODE_LENGTH) {
    throw new CodeError(`code length: expected 1 to ${MAX_CODE_LENGTH}, received ${codeLength}`);
  }
  return WORD_BYTES * Math.ceil(codeLength / (8 * WORD_BYTES));
}

/** The code of one face under one key: `symbols` `(M,)`, each below `alphabetSize`. */
export class Code {
  readonly symbols: Uint8Array;
  readonly alphabetSize: number;

  constructor(symbols: Uint8Array, alphabetSize: number) {
    if (!(symbols instanceof Uint8Array))
      throw new CodeError(`symbols: expected a Uint8Array, received ${typeof symbols}`);
    codeBytes(symbols.length, alphabetSize);
    const highest = symbols.reduce((most, symbol) => Math.max(most, symbol), 0);
    if (highest >= alphabetSize) {
      throw new CodeError(`symbols: expected 0 to ${alphabetSize - 1}, received ${highest}`);
    }
    this.symbols = symbols;
    this.alphabetSize = alphabetSize;
  }

  /** Bit j of byte k of plane p is bit p of symbol 8 k + j; a plane is filled up to whole 64-bit words with zeros. */
  toBytes(): Bytes {
    const plane = planeBytes(this.symbols.length);
    const planes = planeCount(this.alphabetSize);
    const bytes = new Uint8Array(planes * plane);
    this.symbols.forEach((symbol, place) => {
      for (let bit = 0; bit < planes; bit++) bytes[bit * plane + (place >> 3)] |= ((symbol >> bit) & 1) << (place & 7);
    });
    return bytes;
  }

  /** Read what `toBytes` gave; a `CodeError` for another length, bits in the padding or a wrong symbol. */
  static fromBytes(bytes: Uint8Array, codeLength: number, alphabetSize: number): Code {
    const size = codeBytes(codeLength, alphabetSize);
    if (!(bytes instanceof Uint8Array) || bytes.length !== size) {
      const received = bytes instanceof Uint8Array ? `${bytes.length} bytes` : typeof bytes;
      throw new CodeError(`a code of ${codeLength}x${alphabetSize}: expected ${size} bytes, received ${received}`);
    }
    checkPadding(bytes, codeLength, alphabetSize);
    const plane = planeBytes(codeLength);
    const symbols = new Uint8Array(codeLength);
    for (let bit = 0; bit < planeCount(alphabetSize); bit++) {
      for (let place = 0; place < codeLength; place++) {
        symbols[place] |= ((bytes[bit * plane + (place >> 3)] >> (place & 7)) & 1) << bit;
      }
    }
    return new Code(symbols, alphabetSize);
  }

  /** Nothing of the symbols: a code is a secret of the gallery. */
  toJSON(): { codeLength: number; alphabetSize: number } {
    return { codeLength: this.symbols.length, alphabetSize: this.alphabetSize };
  }
}

function checkPadding(bytes: Uint8Array, codeLength: number, alphabetSize: number): void {
  const plane = planeBytes(codeLength);
  for (let bit = 0; bit < planeCount(alphabetSize); bit++) {
    for (let place = codeLength; place < 8 * plane; place++) {
      if ((bytes[bit * plane + (place >> 3)] >> (place & 7)) & 1) {
        throw new CodeError("a stored code: expected zeros after the last position, received ones");
      }
    }
  }
}

/** Positions in which two codes of one hasher and key differ. */
export function distance(first: Code, second: Code): number {
  if (first.symbols.length !== second.symbols.length || first.alphabetSize !== second.alphabetSize) {
    throw new CodeError(
      `distance: expected codes of one size, received ${first.symbols.length}x${first.alphabetSize} and ` +
        `${second.symbols.length}x${second.alphabetSize}`,
    );
  }
  let differing = 0;
  for (let i = 0; i < first.symbols.length; i++) differing += first.symbols[i] === second.symbols[i] ? 0 : 1;
  return differing;
}

/** Two shares of a stored code: the first is uniform, their XOR is the code; padding is zero in both. */
export function splitCode(code: Code): [Bytes, Bytes] {
  const bytes = code.toBytes();
  const first = crypto.getRandomValues(new Uint8Array(bytes.length));
  const plane = planeBytes(code.symbols.length);
  for (let start = 0; start < bytes.length; start += plane) {
    for (let place = code.symbols.length; place < 8 * plane; place++) {
      first[start + (place >> 3)] &= ~(1 << (place & 7));
    }
  }
  return [first, xor(first, bytes)];
}

/** The code of two shares; shares that do not belong together give another code, or a `CodeError`. */
export function joinCode(first: Uint8Array, second: Uint8Array, codeLength: number, alphabetSize: number): Code {
  if (first.length !== second.length) {
    throw new CodeError(`shares: expected one length, received ${first.length} and ${second.length} bytes`);
  }
  return Code.fromBytes(xor(first, second), codeLength, alphabetSize);
}
