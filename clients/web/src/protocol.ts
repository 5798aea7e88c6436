/** What a device signs, byte for byte. */

import { concat, uint32, utf8, type Bytes } from "./bytes.js";

export type Action = "enroll" | "verify" | "renew" | "revoke";

/** Which of two services with shares a request is for: the one that decides, or the other; "" where there is but one. */
export type Side = "a" | "b" | "";

/** An action, bound to a service of two: neither can be given what was signed for the other. */
export type SidedAction = Action | `${Action}/a` | `${Action}/b`;

/** The action as it is signed. */
export function onSide(action: Action, side: Side): SidedAction {
  return side ? `${action}/${side}` : action;
}

/** Fields of a signed message; an absent one is empty. */
export interface SignedFields {
  action: SidedAction;
  application: string;
  subject: string;
  /** Fingerprint of the hasher, hexadecimal digits. */
  hasher?: string;
  /** Identifier of the key, hexadecimal digits. */
  key?: string;
  /** The stored form of the code. */
  code?: Uint8Array;
  /** Public key of a device, SPKI in DER. */
  device?: Uint8Array;
  nonce: Uint8Array;
}

/** The name of a subject as the service stores it: in Unicode normal form C. */
export function subjectName(subject: string): string {
  return subject.normalize("NFC");
}

/** The message: a label, then each field with its length in four bytes, big endian, before it. */
export function signedMessage(fields: SignedFields): Bytes {
  const none = new Uint8Array(0);
  const parts = [
    utf8(fields.action),
    utf8(fields.application),
    utf8(subjectName(fields.subject)),
    utf8(fields.hasher ?? ""),
    utf8(fields.key ?? ""),
    fields.code ?? none,
    fields.device ?? none,
    fields.nonce,
  ];
  return concat(utf8("iom/on-device/v1"), ...parts.flatMap((part) => [uint32(part.length), part]));
}
