/** The device: a sealed master secret and a signing key in IndexedDB, neither of which can be read out of it. */

import { deleteDB, openDB, type DBSchema, type IDBPDatabase } from "idb";
import encodeQR from "qr";
import { copyOf, utf8, type Bytes } from "./bytes.js";
import { KeyMaterialError } from "./errors.js";
import { TransformKey } from "./keys.js";
import { subjectName } from "./protocol.js";

const DATABASE = "iom-device";
const VERSION = 1;
const SELF = "self";
const NONCE_BYTES = 12;
const SEALED_FOR = utf8("iom/device/secret/v1");
const SIGNATURE = { name: "ECDSA", hash: "SHA-256" };

interface Material {
  wrapping: CryptoKey;
  nonce: Bytes;
  sealed: Bytes;
  signing: CryptoKeyPair;
}

interface StoredRecord {
  current: number;
  /** The highest number that a renewal was ever tried with. */
  tried: number;
}

interface Schema extends DBSchema {
  material: { key: string; value: Material };
  records: { key: [string, string]; value: StoredRecord };
}

/** Which record of each (application, subject) is the current one: a renewal moves to the next number. */
export class Records {
  readonly #database: IDBPDatabase<Schema>;

  /** Over the database of a `Device`; its type is of a package that is bundled, and so in no declaration. */
  constructor(database: unknown) {
    this.#database = database as IDBPDatabase<Schema>;
  }

  /** The current number, 0 at first, and the highest that was tried. */
  async get(application: string, subject: string): Promise<StoredRecord> {
    return (await this.#database.get("records", [application, subjectName(subject)])) ?? { current: 0, tried: 0 };
  }

  /** Take a number as the current one. */
  async set(application: string, subject: string, current: number): Promise<void> {
    checkNumber(current);
    await this.#change(application, subject, (found) => ({ current, tried: Math.max(found.tried, current) }));
  }

  /** A number that was never tried, for the key of a renewal; it is current only after `set`. */
  async next(application: string, subject: string): Promise<number> {
    const found = await this.#change(application, subject, ({ current, tried }) => ({ current, tried: tried + 1 }));
    return found.tried;
  }

  async #change(
    application: string,
    subject: string,
    change: (found: StoredRecord) => StoredRecord,
  ): Promise<StoredRecord> {
    const place: [string, string] = [application, subjectName(subject)];
    const transaction = this.#database.transaction("records", "readwrite");
    const changed = change((await transaction.store.get(place)) ?? { current: 0, tried: 0 });
    await transaction.store.put(changed, place);
    await transaction.done;
    return changed;
  }
}

function checkNumber(record: number): void {
  if (!Number.isSafeInteger(record) || record < 0) {
    throw new KeyMaterialError(`record must be a whole number that is not negative, received ${record}`);
  }
}

/**
 * What makes this browser the device of a subject.
 *
 * The master secret lies sealed under an AES-GCM key that cannot be exported; an ECDSA P-256 pair that cannot be
 * exported signs requests. Scripts of the same origin can use both, but carry neither away.
 */
export class Device {
  readonly #database: IDBPDatabase<Schema>;
  readonly #name: string;
  /** Current record numbers. */
  readonly records: Records;

  private constructor(database: IDBPDatabase<Schema>, name: string) {
    this.#database = database;
    this.#name = name;
    this.records = new Records(database);
  }

  /** Open the device of this browser and origin; one is made where there is none. */
  static async open(databaseName: string = DATABASE): Promise<Device> {
    let database: IDBPDatabase<Schema>;
    try {
      database = await openDB<Schema>(databaseName, VERSION, {
        upgrade(made) {
          made.createObjectStore("material");
          made.createObjectStore("records");
        },
        blocking(_current, _blocked, event) {
          (event.target as IDBDatabase).close(); // another page wants to delete it
        },
      });
    } catch (error) {
      throw new KeyMaterialError(
        `the browser keeps no database for this page (${(error as Error).message}); ` +
          "leave private browsing, or allow storage",
        { cause: error },
      );
    }
    const device = new Device(database, databaseName);
    if ((await database.get("material", SELF)) === undefined) {
      const made = await newMaterial(crypto.getRandomValues(new Uint8Array(32)));
      const transaction = database.transaction("material", "readwrite");
      // Of two pages that open it at once, one makes it.
      if ((await transaction.store.get(SELF)) === undefined) await transaction.store.put(made, SELF);
      await transaction.done;
    }
    return device;
  }

  /** Public signing key, SPKI in DER. */
  async publicKey(): Promise<Bytes> {
    const { signing } = await this.#material();
    return new Uint8Array(await crypto.subtle.exportKey("spki", signing.publicKey));
  }

  /** ECDSA P-256 signature with SHA-256 of some bytes, 64 bytes r || s. */
  async sign(bytes: Uint8Array): Promise<Bytes> {
    const { signing } = await this.#material();
    return new Uint8Array(await crypto.subtle.sign(SIGNATURE, signing.privateKey, copyOf(bytes)));
  }

  /** The key of a record: of the current one, unless a number is given. */
  async key(label: { application: string; subject: string; record?: number }): Promise<TransformKey> {
    const subject = subjectName(label.subject);
    const record = label.record ?? (await this.records.get(label.application, subject)).current;
    return (await this.#master()).derive({ application: label.application, subject, record });
  }

  /** The master secret as text, to be kept as a backup. Whoever has it has all keys. */
  async exportText(): Promise<string> {
    return (await this.#master()).toText();
  }

  /** `exportText` as a QR code, an SVG picture. */
  async exportQr(): Promise<string> {
    return encodeQR(await this.exportText(), "svg", { ecc: "quartile", border: 4 });
  }

  /** Take the master secret of a backup in place of this device's own; the signing key stays. */
  async importText(text: string): Promise<void> {
    const master = await TransformKey.fromText(text);
    const { signing } = await this.#material();
    const { wrapping, nonce, sealed } = await sealedSecret(await master.toBytes());
    await this.#database.put("material", { wrapping, nonce, sealed, signing }, SELF);
  }

  /** Close the database; the device stays. */
  close(): void {
    this.#database.close();
  }

  /** Delete secret, signing key and record numbers; what was enrolled with them cannot be verified any more. */
  async delete(): Promise<void> {
    this.#database.close();
    await deleteDB(this.#name);
  }

  async #material(): Promise<Material> {
    const found = await this.#database.get("material", SELF);
    if (found === undefined) throw new KeyMaterialError("the device was deleted; open it again");
    return found;
  }

  async #master(): Promise<TransformKey> {
    const { wrapping, nonce, sealed } = await this.#material();
    try {
      const cipher = { name: "AES-GCM", iv: nonce, additionalData: SEALED_FOR };
      return await TransformKey.fromBytes(new Uint8Array(await crypto.subtle.decrypt(cipher, wrapping, sealed)));
    } catch (error) {
      throw new KeyMaterialError("the sealed secret of this device is damaged; import it from a backup", {
        cause: error,
      });
    }
  }
}

async function newMaterial(secret: Bytes): Promise<Material> {
  const signing = await crypto.subtle.generateKey({ name: "ECDSA", namedCurve: "P-256" }, false, ["sign", "verify"]);
  return { ...(await sealedSecret(secret)), signing };
}

/** The secret sealed under a fresh key that cannot be exported. */
async function sealedSecret(secret: Bytes): Promise<Omit<Material, "signing">> {
  const wrapping = await crypto.subtle.generateKey({ name: "AES-GCM", length: 256 }, false, ["encrypt", "decrypt"]);
  const nonce = crypto.getRandomValues(new Uint8Array(NONCE_BYTES));
  const cipher = { name: "AES-GCM", iv: nonce, additionalData: SEALED_FOR };
  const sealed = new Uint8Array(await crypto.subtle.encrypt(cipher, wrapping, secret));
  secret.fill(0);
  return { wrapping, nonce, sealed };
}
