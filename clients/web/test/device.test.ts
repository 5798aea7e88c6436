import "fake-indexeddb/auto";
import { describe, expect, it, vi } from "vitest";
import { Device, KeyMaterialError, TransformKey } from "../src/index.js";

let number = 0;
const fresh = () => Device.open(`test-${number++}`);
const PLACE = { application: "door", subject: "anna" };

async function stored(name: string): Promise<Record<string, unknown>> {
  return new Promise((resolve, reject) => {
    const opening = indexedDB.open(name);
    opening.onerror = () => reject(opening.error);
    opening.onsuccess = () => {
      const reading = opening.result.transaction("material").objectStore("material").get("self");
      reading.onsuccess = () => {
        opening.result.close();
        resolve(reading.result as Record<string, unknown>);
      };
    };
  });
}

describe("a device", () => {
  it("is the same when it is opened again", async () => {
    const first = await fresh();
    const [key, spki] = [await first.key(PLACE), await first.publicKey()];
    first.close();
    const again = await Device.open(`test-${number - 1}`);
    expect(await (await again.key(PLACE)).equals(key)).toBe(true);
    expect(await again.publicKey()).toEqual(spki);
  });

  it("is one, where two pages make it at once", async () => {
    const name = `test-${number++}`;
    const generate = crypto.subtle.generateKey.bind(crypto.subtle) as (...how: unknown[]) => Promise<CryptoKey>;
    const slow = vi.spyOn(crypto.subtle, "generateKey").mockImplementationOnce(async (...how: unknown[]) => {
      await new Promise((resolve) => setTimeout(resolve, 100));
      return generate(...how);
    });
    const [late, early] = [Device.open(name), Device.open(name)]; // the second one is made while the first waits
    const before = await (await early).key(PLACE);
    expect(await (await (await late).key(PLACE)).equals(before)).toBe(true);
    expect(await (await (await early).key(PLACE)).equals(before)).toBe(true);
    slow.mockRestore();
  });

  it("signs what its public key verifies", async () => {
    const device = await fresh();
    const message = Uint8Array.of(1, 2, 3);
    const signature = await device.sign(message);
    expect(signature.length).toBe(64);
    const curve = { name: "ECDSA", namedCurve: "P-256" };
    const key = await crypto.subtle.importKey("spki", await device.publicKey(), curve, false, ["verify"]);
    const verified = (bytes: Uint8Array<ArrayBuffer>) =>
      crypto.subtle.verify({ name: "ECDSA", hash: "SHA-256" }, key, signature, bytes);
    expect(await verified(message)).toBe(true);
    expect(await verified(Uint8Array.of(1, 2, 4))).toBe(false);
  });

  it("stores no secret in the open, and keys that cannot be exported", async () => {
    const device = await fresh();
    const secret = await (await TransformKey.fromText(await device.exportText())).toBytes();
    const material = await stored(`test-${number - 1}`);
    const { wrapping, signing, sealed } = material as {
      wrapping: CryptoKey;
      signing: CryptoKeyPair;
      sealed: Uint8Array;
    };
    expect(Buffer.from(sealed).includes(Buffer.from(secret))).toBe(false);
    expect(wrapping.extractable).toBe(false);
    expect(signing.privateKey.extractable).toBe(false);
    await expect(crypto.subtle.exportKey("raw", wrapping)).rejects.toThrow();
    await expect(crypto.subtle.exportKey("pkcs8", signing.privateKey)).rejects.toThrow();
  });

  it("refuses a sealed secret that was changed", async () => {
    const device = await fresh();
    const material = (await stored(`test-${number - 1}`)) as { sealed: Uint8Array };
    material.sealed[5] ^= 1;
    await new Promise((resolve) => {
      const opening = indexedDB.open(`test-${number - 1}`);
      opening.onsuccess = () => {
        const writing = opening.result
          .transaction("material", "readwrite")
          .objectStore("material")
          .put(material, "self");
        writing.onsuccess = resolve;
      };
    });
    await expect(device.key(PLACE)).rejects.toThrow(KeyMaterialError);
  });

  it("gives its keys to another by text, and keeps its own signing key", async () => {
    const [first, second] = [await fresh(), await fresh()];
    const spki = await second.publicKey();
    await second.importText(await first.exportText());
    expect(await (await second.key(PLACE)).equals(await first.key(PLACE))).toBe(true);
    expect(await second.publicKey()).toEqual(spki);
    await expect(second.importText("iom-key-1:damaged")).rejects.toThrow(KeyMaterialError);
    expect(await (await second.key(PLACE)).equals(await first.key(PLACE))).toBe(true);
  });

  it("shows its backup as a QR code", async () => {
    const picture = await (await fresh()).exportQr();
    expect(picture).toMatch(/^<svg[^>]*>.*<\/svg>$/s);
    expect(picture).not.toContain("iom-key");
  });

  it("derives as Python does, and takes other keys for other records", async () => {
    const device = await fresh();
    const master = await TransformKey.fromText(await device.exportText());
    const before = await device.key(PLACE);
    expect(await before.equals(await master.derive({ ...PLACE, record: 0 }))).toBe(true);
    const next = await device.records.next(PLACE.application, PLACE.subject);
    expect(next).toBe(1);
    expect(await (await device.key(PLACE)).equals(before)).toBe(true);
    await device.records.set(PLACE.application, PLACE.subject, next);
    expect(await (await device.key(PLACE)).equals(before)).toBe(false);
    expect(await device.records.next(PLACE.application, PLACE.subject)).toBe(2);
    expect(await device.records.next(PLACE.application, PLACE.subject)).toBe(3);
  });

  it("takes a subject's name in one form", async () => {
    const device = await fresh();
    const [composed, apart] = ["Zo\u00eb", "Zoe\u0308"];
    await device.records.set("door", composed, 4);
    expect((await device.records.get("door", apart)).current).toBe(4);
    const keys = await Promise.all([composed, apart].map((subject) => device.key({ application: "door", subject })));
    expect(await keys[0].equals(keys[1])).toBe(true);
  });

  it("is gone when it is deleted", async () => {
    const device = await fresh();
    const before = await device.key(PLACE);
    await device.delete();
    await expect(device.key(PLACE)).rejects.toThrow();
    const again = await Device.open(`test-${number - 1}`);
    expect(await (await again.key(PLACE)).equals(before)).toBe(false);
  });
});
