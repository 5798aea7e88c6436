/** Cancellable face templates on the device: the face stays here, a code leaves. */

export {
  OnDeviceClient,
  type ClientOptions,
  type CodeMaker,
  type Decision,
  type Enrolment,
  type Probe,
} from "./client.js";
export { Code, codeBytes, distance, encodingId, joinCode, splitCode } from "./codes.js";
export { Device, Records } from "./device.js";
export * from "./errors.js";
export type { Manifest } from "./artefact.js";
export { Hasher, type LoadOptions } from "./hasher.js";
export type { Chip, Face, Picture, PlainPixels } from "./images.js";
export { DERIVATIONS, TransformKey, type KeyKind, type RecordLabel } from "./keys.js";
export { signedMessage, subjectName, type Action, type SidedAction, type SignedFields } from "./protocol.js";
