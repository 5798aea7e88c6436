import "fake-indexeddb/auto";
import { describe, expect, it } from "vitest";
import { fromBase64Url, toBase64Url } from "../src/bytes.js";
import { Code, Device, OnDeviceClient, ServiceError, TransformKey, signedMessage, type SidedAction } from "../src/index.js";

const FINGERPRINT = "ab".repeat(32);
const EMBEDDING = Float32Array.of(0.6, -0.8);
const CURVE = { name: "ECDSA", namedCurve: "P-256" };

/** A hasher whose code depends on the key alone. */
const hasher = {
  fingerprint: FINGERPRINT,
  async hash(_: unknown, key: TransformKey): Promise<Code> {
    const order = await key.order("permutation", 64);
    return new Code(
      Uint8Array.from(order, (place) => place % 4),
      4,
    );
  },
};

interface Sent {
  url: string;
  action: string;
  body: Record<string, unknown>;
  headers: Record<string, string>;
}

/** A service that keeps what it was sent and checks signatures as the protocol says. */
class Service {
  readonly sent: Sent[] = [];
  readonly signedBy: boolean[] = [];
  failures: Record<string, (() => Response | Promise<Response>)[]> = {};
  nonces = 0;

  readonly fetch: typeof fetch = async (url, options) => {
    const action = String(url).split("/").pop()!;
    const body = JSON.parse(options!.body as string) as Record<string, unknown>;
    this.sent.push({ url: String(url), action, body, headers: options!.headers as Record<string, string> });
    const failure = this.failures[action]?.shift();
    if (failure) return failure();
    if (action === "nonce")
      return Response.json({ nonce: toBase64Url(new Uint8Array(32).fill(++this.nonces)), seconds: 60 });
    if (action === "verify-code") return Response.json({ match: true });
    if (action === "revoke-code") return Response.json({ revoked: 1 });
    return Response.json({ subject: body.subject, slots: [0] });
  };

  requests(action: string): Record<string, unknown>[] {
    return this.sent.filter((each) => each.action === action).map(({ body }) => body);
  }
}

async function isSigned(
  body: Record<string, unknown>,
  spki: Uint8Array<ArrayBuffer>,
  field = "signature",
): Promise<boolean> {
  const bytes = (name: string) => (body[name] === undefined ? undefined : fromBase64Url(body[name] as string));
  const action = body.action as SidedAction;
  const message = signedMessage({
    action,
    application: "door",
    subject: body.subject as string,
    ...(body.hasher !== undefined && { hasher: body.hasher as string, key: body.key as string }),
    ...(bytes("code") && { code: bytes("code")! }),
    ...(bytes("device") && { device: bytes("device")! }),
    nonce: bytes("nonce")!,
  });
  const key = await crypto.subtle.importKey("spki", spki, CURVE, false, ["verify"]);
  return crypto.subtle.verify({ name: "ECDSA", hash: "SHA-256" }, key, bytes(field)!, message);
}

let number = 0;
async function setUp() {
  const service = new Service();
  const client = new OnDeviceClient("https://example.org/", "a-token", { application: "door", fetch: service.fetch });
  const device = await Device.open(`client-${number++}`);
  return { service, client, device, probe: { device, hasher, subject: "anna", source: EMBEDDING } };
}

describe("a client", () => {
  it("enrols with a code, the device's public key and a signature, and nothing else", async () => {
    const { service, client, device, probe } = await setUp();
    expect(await client.enroll(probe)).toEqual({ subject: "anna", slots: [0] });
    const [body] = service.requests("enroll-code");
    expect(Object.keys(body).sort()).toEqual(["code", "device", "hasher", "key", "nonce", "signature", "subject"]);
    const spki = await device.publicKey();
    expect(body.device).toBe(toBase64Url(spki));
    expect(await isSigned({ ...body, action: "enroll" }, spki)).toBe(true);
    expect(await isSigned({ ...body, action: "verify" }, spki)).toBe(false);
    expect(service.sent.map(({ url }) => url)).toEqual([
      "https://example.org/v1/door/nonce",
      "https://example.org/v1/door/enroll-code",
    ]);
    expect(service.sent.every(({ headers }) => headers.Authorization === "Bearer a-token")).toBe(true);
  });

  it("sends neither embedding nor secret", async () => {
    const { service, client, device, probe } = await setUp();
    await client.enroll(probe);
    await client.verify(probe);
    await client.renew(probe);
    await client.revoke(probe);
    const secret = await (await TransformKey.fromText(await device.exportText())).toBytes();
    const hidden = [
      secret,
      new Uint8Array(EMBEDDING.buffer),
      await (await device.key({ application: "door", subject: "anna" })).toBytes(),
    ];
    for (const { body } of service.sent) {
      for (const value of Object.values(body)) {
        const bytes = Buffer.from(fromBase64Url(String(value)) ?? []);
        for (const each of hidden) expect(bytes.includes(Buffer.from(each))).toBe(false);
      }
    }
  });

  it("verifies under the enrolled key with a fresh nonce", async () => {
    const { service, client, device, probe } = await setUp();
    await client.enroll(probe);
    expect(await client.verify(probe)).toEqual({ match: true });
    const [[enrolled], [verified]] = [service.requests("enroll-code"), service.requests("verify-code")];
    expect(verified.key).toBe(enrolled.key);
    expect(verified.code).toBe(enrolled.code);
    expect(verified.nonce).not.toBe(enrolled.nonce);
    expect(await isSigned({ ...verified, action: "verify" }, await device.publicKey())).toBe(true);
  });

  it("renews under another key, which counts from then on", async () => {
    const { service, client, device, probe } = await setUp();
    await client.enroll(probe);
    await client.renew(probe);
    await client.verify(probe);
    const [[enrolled], [renewed], [verified]] = ["enroll-code", "renew-code", "verify-code"].map((action) =>
      service.requests(action),
    );
    expect(renewed.key).not.toBe(enrolled.key);
    expect(renewed.device).toBeUndefined();
    expect(verified.key).toBe(renewed.key);
    expect(await isSigned({ ...renewed, action: "renew" }, await device.publicKey())).toBe(true);
  });

  it("renews onto another device, which both sign", async () => {
    const { service, client, device, probe } = await setUp();
    const newDevice = await Device.open(`client-${number++}`);
    await client.renew(probe, { newDevice });
    const [body] = service.requests("renew-code");
    const signed = { ...body, action: "renew" };
    expect(await isSigned(signed, await device.publicKey())).toBe(true);
    expect(await isSigned(signed, await newDevice.publicKey(), "device_signature")).toBe(true);
    expect(body.device).toBe(toBase64Url(await newDevice.publicKey()));
    expect((await newDevice.records.get("door", "anna")).current).toBe(1);
  });

  it("keeps the old key where a renewal is refused", async () => {
    const { service, client, device, probe } = await setUp();
    await client.enroll(probe);
    service.failures["renew-code"] = [() => Response.json({ detail: "wrong device" }, { status: 403 })];
    await expect(client.renew(probe)).rejects.toMatchObject({
      status: 403,
      message: expect.stringContaining("wrong device"),
    });
    expect(await device.records.get("door", "anna")).toEqual({ current: 0, tried: 1 });
    await client.renew(probe);
    const keys = service.requests("renew-code").map(({ key }) => key);
    expect(new Set(keys).size).toBe(2); // a key that was once sent is not taken again
  });

  it("finds the key of a renewal whose answer was lost", async () => {
    const { service, client, device, probe } = await setUp();
    await client.enroll(probe);
    service.failures["renew-code"] = [() => Promise.reject(new TypeError("network"))];
    await expect(client.renew(probe)).rejects.toMatchObject({ status: 0 });
    service.failures["verify-code"] = [() => Response.json({ detail: "an old key" }, { status: 410 })];
    expect(await client.verify(probe)).toEqual({ match: true });
    const keys = service.requests("verify-code").map(({ key }) => key);
    expect(keys).toEqual([service.requests("enroll-code")[0].key, service.requests("renew-code")[0].key]);
    expect((await device.records.get("door", "anna")).current).toBe(1);
  });

  it("finds the key of a renewal whose answer was lost, also after one that was never sent", async () => {
    const { service, client, device, probe } = await setUp();
    const lost = (): Promise<Response> => Promise.reject(new TypeError("network"));
    await client.enroll(probe);
    service.failures["renew-code"] = [lost];
    await expect(client.renew(probe)).rejects.toMatchObject({ status: 0 });
    service.failures["nonce"] = [lost];
    await expect(client.renew(probe)).rejects.toMatchObject({ status: 0 });
    const refused = (status: number) => () => Response.json({ detail: "another key" }, { status });
    service.failures["verify-code"] = [refused(410), refused(409)];
    expect(await client.verify(probe)).toEqual({ match: true });
    expect(service.requests("verify-code")[2].key).toBe(service.requests("renew-code")[0].key);
    expect((await device.records.get("door", "anna")).current).toBe(1);
    service.failures["verify-code"] = [refused(410), refused(409)];
    await expect(client.verify(probe)).rejects.toMatchObject({ status: 410 });
  });

  it("brings a revoked subject back under a fresh key", async () => {
    const { service, client, probe } = await setUp();
    await client.enroll(probe);
    await client.revoke(probe);
    await client.enroll(probe, { returning: true });
    const [first, second] = service.requests("enroll-code");
    expect(second.returning).toBe(true);
    expect(second.key).not.toBe(first.key);
  });

  it("revokes with a signature alone", async () => {
    const { service, client, device } = await setUp();
    await client.revoke({ device, subject: "anna" });
    const [body] = service.requests("revoke-code");
    expect(Object.keys(body).sort()).toEqual(["nonce", "signature", "subject"]);
    expect(await isSigned({ ...body, action: "revoke" }, await device.publicKey())).toBe(true);
  });

  it.each([
    ["no JSON", () => new Response("<html>", { status: 502 }), 502],
    ["a list", () => Response.json([1], { status: 200 }), 200],
    ["a long reason", () => Response.json({ detail: "x".repeat(10_000) }, { status: 422 }), 422],
    ["a nonce of another size", () => Response.json({ nonce: "AAAA", seconds: 60 }), 0],
    ["a nonce that is no text", () => Response.json({ nonce: { a: 1 } }), 0],
    ["nothing", () => Promise.reject(new TypeError("failed")), 0],
  ])("refuses an answer that is %s", async (_, answer, status) => {
    const { service, client } = await setUp();
    service.failures.nonce = [answer];
    const error = (await client.nonce().catch((found: unknown) => found)) as ServiceError;
    expect(error).toBeInstanceOf(ServiceError);
    expect(error.status).toBe(status);
    expect(error.message.length).toBeLessThan(600);
  });

  it("takes a name of an application as one part of an address", async () => {
    const service = new Service();
    const client = new OnDeviceClient("https://example.org", undefined, {
      application: "../a/b",
      fetch: service.fetch,
    });
    await client.nonce();
    expect(service.sent[0].url).toBe("https://example.org/v1/..%2Fa%2Fb/nonce");
    expect(service.sent[0].headers.Authorization).toBeUndefined();
  });
});

describe("a client of two services", () => {
  const SECOND = "https://shares.example:8443";
  const refusal = (status: number) => () => Response.json({ detail: "refused" }, { status });

  async function setUpTwo() {
    const { service: first, device, probe } = await setUp();
    const other = new Service();
    const client = new OnDeviceClient("https://example.org", "a-token", {
      application: "door",
      other: { url: `${SECOND}/`, token: "b-token" },
      fetch: (url, options) => (String(url).startsWith(SECOND) ? other : first).fetch(url, options),
    });
    return { first, other, client, device, probe };
  }

  const bytes = (value: unknown): Uint8Array => fromBase64Url(String(value))!;

  async function expected(device: Device, record: number): Promise<Uint8Array> {
    const key = await device.key({ application: "door", subject: "anna", record });
    return (await hasher.hash(undefined, key)).toBytes();
  }

  it("sends each a share of the code, signed over its own nonce, with its own token", async () => {
    const { first, other, client, device, probe } = await setUpTwo();
    await client.enroll(probe);
    const [one] = first.requests("enroll-code");
    const [two] = other.requests("enroll-code");
    const spki = await device.publicKey();
    expect(await isSigned({ ...one, action: "enroll/a" }, spki)).toBe(true);
    expect(await isSigned({ ...two, action: "enroll/b" }, spki)).toBe(true);
    expect(one.key).toBe(two.key);
    const [a, b] = [bytes(one.code), bytes(two.code)];
    const whole = await expected(device, (await device.records.get("door", "anna")).current);
    expect(a.map((byte, place) => byte ^ b[place])).toEqual(whole);
    for (const share of [a, b]) expect(share).not.toEqual(whole);
    expect(first.sent.every(({ headers }) => headers.Authorization === "Bearer a-token")).toBe(true);
    expect(other.sent.every(({ headers }) => headers.Authorization === "Bearer b-token")).toBe(true);
    expect(other.sent.every(({ url }) => url.startsWith(`${SECOND}/v1/door/`))).toBe(true);
  });

  it("verifies at the first with what the second sealed for that request", async () => {
    const { first, other, client, device, probe } = await setUpTwo();
    await client.enroll(probe);
    other.failures["verify-share"] = [() => Response.json({ difference: "sealed" })];
    expect(await client.verify(probe)).toEqual({ match: true });
    const [asked] = other.requests("verify-share");
    const [decided] = first.requests("verify-code");
    expect(asked.other_nonce).toBe(decided.nonce);
    expect(decided.other).toBe("sealed");
    expect(other.requests("verify-code")).toEqual([]);
    const spki = await device.publicKey();
    expect(await isSigned({ ...asked, action: "verify/b" }, spki)).toBe(true);
    expect(await isSigned({ ...decided, action: "verify/a" }, spki)).toBe(true);
    const whole = await expected(device, (await device.records.get("door", "anna")).current);
    expect(bytes(asked.code).map((byte, place) => byte ^ bytes(decided.code)[place])).toEqual(whole);
  });

  it("draws shares anew each time", async () => {
    const { other, client, probe } = await setUpTwo();
    await client.enroll(probe);
    other.failures["verify-share"] = [1, 2].map(() => () => Response.json({ difference: "sealed" }));
    await client.verify(probe);
    await client.verify(probe);
    const [one, two] = other.requests("verify-share");
    expect(one.code).not.toBe(two.code);
  });

  it("repeats under a fresh key what one of them alone got", async () => {
    const { first, other, client, probe } = await setUpTwo();
    other.failures["enroll-code"] = [refusal(503)];
    await expect(client.enroll(probe)).rejects.toMatchObject({ status: 503 });
    first.failures["enroll-code"] = [refusal(409)];
    await client.enroll(probe);
    const [renewed] = first.requests("renew-code");
    const [, enrolled] = other.requests("enroll-code");
    expect(renewed.key).toBe(enrolled.key);
    expect(renewed.key).not.toBe(first.requests("enroll-code")[0].key);
    expect("device" in renewed).toBe(false);
    other.failures["renew-code"] = [refusal(404)];
    await client.renew(probe);
    expect(other.requests("enroll-code")).toHaveLength(3);
  });

  it("takes a refusal by both for one", async () => {
    const { first, other, client, probe } = await setUpTwo();
    for (const service of [first, other]) service.failures["enroll-code"] = [refusal(409)];
    await expect(client.enroll(probe)).rejects.toMatchObject({ status: 409 });
    for (const service of [first, other]) service.failures["renew-code"] = [refusal(404)];
    await expect(client.renew(probe)).rejects.toMatchObject({ status: 404 });
    for (const service of [first, other]) {
      expect(service.requests("enroll-code")).toHaveLength(1);
      expect(service.requests("renew-code")).toHaveLength(1);
    }
  });

  it("finds the key of an enrolment whose answer was lost", async () => {
    const { first, other, client, device, probe } = await setUpTwo();
    other.failures["enroll-code"] = [() => Promise.reject(new TypeError("network"))];
    await expect(client.enroll(probe)).rejects.toMatchObject({ status: 0 });
    other.failures["verify-share"] = [refusal(409), () => Response.json({ difference: "sealed" })];
    expect(await client.verify(probe)).toEqual({ match: true });
    expect(first.requests("verify-code")[0].key).toBe(first.requests("enroll-code")[0].key);
    expect((await device.records.get("door", "anna")).current).toBe(1);
  });

  it("asks both to revoke, whatever one of them says", async () => {
    const { first, other, client, probe } = await setUpTwo();
    first.failures["revoke-code"] = [refusal(503)];
    await expect(client.revoke(probe)).rejects.toMatchObject({ status: 503 });
    expect(other.requests("revoke-code")).toHaveLength(1);
    await client.revoke(probe);
    expect(first.requests("revoke-code")).toHaveLength(2);
  });
});
