/** Errors with plain messages: what was expected, what came, what to do. None holds a secret. */

/** Root of all errors of this library. */
export class IomError extends Error {
  constructor(message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = new.target.name;
  }
}

/** A key, a key text or the key material of a device cannot be used. */
export class KeyMaterialError extends IomError {}

/** Symbols or stored bytes are no code of the expected sizes. */
export class CodeError extends IomError {}

/** An artefact is missing, damaged or of another version. */
export class ArtefactError extends IomError {}

/** Why a picture has no face to compare; the names are those of the Python package. */
export type FaceStatus =
  | "no_face"
  | "several_faces"
  | "too_small"
  | "too_blurred"
  | "bad_landmarks"
  | "too_large"
  | "empty"
  | "wrong_type"
  | "damaged"
  | "not_embedded";

/** A picture cannot be read or has no face to compare; `status` says which. */
export class FaceError extends IomError {
  readonly status: FaceStatus;

  constructor(message: string, status: FaceStatus, options?: ErrorOptions) {
    super(message, options);
    this.status = status;
  }
}

/** The service refused a request, or could not be reached (`status` 0). */
export class ServiceError extends IomError {
  readonly status: number;

  constructor(message: string, status: number, options?: ErrorOptions) {
    super(message, options);
    this.status = status;
  }
}
