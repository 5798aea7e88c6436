/** Script of the page: what it shows and asks. Faces, keys and codes are handled by the worker. */

import { drawCode, drawFace, drawPicture } from "./drawing.js";
import type { Action, Call, Calls, Outcome, Reply, SentRequest } from "./messages.js";

declare const WORKER: string;
declare const VERSION: string;

const LONGEST_SIDE = 1600; // larger photographs are shrunk, so that detection takes no longer
const TOUR = ["enroll yes", "verify yes", "verify no", "renew yes", "verify yes", "revoke yes"];
const NAMES: Record<Action, string> = { enroll: "Enrol", verify: "Verify", renew: "Renew", revoke: "Revoke" };
const FIELDS: Record<string, string> = {
  code: "code",
  subject: "name",
  hasher: "network id",
  key: "key id",
  device: "device id",
  nonce: "one-time number",
  signature: "signature",
  device_signature: "second signature",
  other_nonce: "number of the other",
  other: "sealed difference",
};
const MANIFEST = "iom-manifest"; // where the networks lie, for a start without the service
const OTHER = "iom-other"; // the service with the other shares of codes, if there is one

interface Score {
  distance: number;
  threshold: number;
}
/** What is told of an action: its class in the styles, a title, a reason. */
type Told = [kind: string, answer: string, reason: string, score: Score | undefined];

let finding: Promise<string>; // the address of the networks' manifest
let loading: Promise<void>;
let chosen = 0; // counts choices: an answer to an earlier one comes too late
let isUsable = false;
let other: string | undefined; // address of the service with the other shares of codes
let stream: MediaStream | null = null;
let step = 0;

function at<Kind extends HTMLElement = HTMLElement>(id: string): Kind {
  return document.getElementById(id) as Kind;
}
const input = (id: string): HTMLInputElement => at<HTMLInputElement>(id);
const button = (id: string): HTMLButtonElement => at<HTMLButtonElement>(id);
const dialog = (id: string): HTMLDialogElement => at<HTMLDialogElement>(id);
const messageOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));

// The worker -------------------------------------------------------------------------------------

const waiting = new Map<number, { resolve(value: unknown): void; reject(error: Error): void }>();
let worker: Worker | undefined;
let calls = 0;

function started(): Worker {
  if (worker) return worker;
  worker = new Worker(WORKER, { type: "module" });
  worker.onmessage = ({ data }: MessageEvent<Reply>) => {
    if ("progress" in data) return showProgress(data.progress.loaded, data.progress.total);
    const call = waiting.get(data.id);
    waiting.delete(data.id);
    if ("result" in data) return call?.resolve(data.result);
    call?.reject(new Error(data.error));
  };
  worker.onerror = (event) => {
    for (const call of waiting.values()) call.reject(new Error(event.message || "the worker of this page cannot be started"));
    waiting.clear();
  };
  return worker;
}

function ask<Name extends Call>(
  call: Name,
  argument: Calls[Name]["argument"],
  transfer: Transferable[] = [],
): Promise<Calls[Name]["result"]> {
  const id = ++calls;
  const reply = new Promise<unknown>((resolve, reject) => waiting.set(id, { resolve, reject }));
  started().postMessage({ id, call, argument }, transfer);
  return reply as Promise<Calls[Name]["result"]>;
}

// What the page says -----------------------------------------------------------------------------

function tell(kind: string, answer: string, reason = "", score?: Score): void {
  at("result").className = kind;
  at("answer").textContent = answer;
  at("reason").textContent = reason;
  at("again").hidden = true;
  at("scale").hidden = !score;
  if (!score) return;
  const most = Math.max(score.threshold * 2, score.distance);
  at("within").style.width = `${(100 * score.threshold) / most}%`;
  at("mark").style.left = `min(${(100 * score.distance) / most}%, 100% - .3rem)`;
}

/** An answer is about one picture: it goes when another one comes. */
function forget(): void {
  tell("", "Nothing asked yet", "Name the person and press a button.");
  at("code").hidden = true;
  at("no-code").hidden = false;
}

function setState(text: string, kind = ""): void {
  at("state").textContent = text;
  at("state").className = `pill ${kind}`;
}

function note(action: Action, subject: string, kind: string, answer: string): void {
  const line = document.createElement("li");
  const result = document.createElement("span");
  result.className = kind;
  result.textContent = answer;
  line.append(`${NAMES[action]} ${subject}: `, result);
  at("log").prepend(line);
  if (TOUR[step] === `${action} ${kind}`) step += 1;
  showTour();
}

function showTour(): void {
  [...at("tour").children].forEach((line, number) => {
    line.className = number < step ? "done" : number === step ? "next" : "";
    if (number === step) line.setAttribute("aria-current", "step");
    else line.removeAttribute("aria-current");
  });
}

const megabytes = (bytes: number): string => (bytes / 1e6).toFixed(1);

function showProgress(loaded: number, total: number): void {
  const bar = at<HTMLProgressElement>("progress");
  if (bar.hidden) return; // loading failed, and other files still come
  bar.max = total;
  bar.value = Math.min(loaded, total);
  at("loaded").textContent = `${megabytes(loaded)} of ${megabytes(total)} MB`;
}

function row(name: string, bytes: string, kind = ""): HTMLTableRowElement {
  const line = document.createElement("tr");
  const head = document.createElement("th");
  const cell = document.createElement("td");
  line.className = kind;
  head.scope = "row";
  head.textContent = name;
  cell.textContent = bytes;
  line.append(head, cell);
  return line;
}

/** Bodies of an action's requests, field by field, a table for each service. */
function showSent(requests: SentRequest[]): void {
  const services = [...new Set(requests.map(({ service }) => service))];
  at("path").classList.toggle("two", services.length > 1);
  const tables = services.map((service) => tableOf(requests.filter((each) => each.service === service), services.length > 1));
  if (tables.length) return at("sent").replaceChildren(...tables);
  const nothing = document.createElement("p");
  nothing.className = "note";
  nothing.textContent = "Nothing: the service was not reached.";
  at("sent").replaceChildren(nothing);
}

function tableOf(requests: SentRequest[], isShare: boolean): HTMLTableElement {
  const table = document.createElement("table");
  const names = requests.map((each) => each.name).join(", ");
  table.createCaption().textContent = isShare ? `to ${requests[0]?.service}: ${names}` : names;
  const body = table.createTBody();
  const fields = requests.flatMap((each) => each.fields);
  const nounOf = (name: string): string => (name === "code" && isShare ? "share of the code" : (FIELDS[name] ?? name));
  for (const { name, bytes } of fields) body.append(row(nounOf(name), `${bytes} bytes`, name === "code" ? "code" : ""));
  const total = requests.reduce((sum, each) => sum + each.bytes, 0);
  const rest = total - fields.reduce((sum, each) => sum + each.bytes, 0);
  body.append(row("field names", `${rest} bytes`));
  const foot = table.createTFoot();
  foot.append(row("in all", `${total} bytes`), row("picture, face, key", "0 bytes"));
  return table;
}

function showCode(code: Outcome["code"]): void {
  const canvas = at<HTMLCanvasElement>("code");
  canvas.hidden = !code;
  at("no-code").hidden = Boolean(code);
  if (!code) return;
  drawCode(canvas, code.symbols, code.alphabetSize);
  canvas.setAttribute("aria-label", `the code: ${code.symbols.length} symbols of ${code.alphabetSize} values`);
}

async function showDevice(): Promise<void> {
  const signer = await ask("signer", null);
  at("key").textContent = signer
    ? `This device signs as ${signer}. Its keys lie sealed in this browser.`
    : "Made when it is first needed.";
  for (const id of ["show-export", "show-delete"]) button(id).disabled = !signer;
}

// Actions ----------------------------------------------------------------------------------------

function read(action: Action, subject: string, outcome: Outcome): Told {
  if (outcome.status !== 200) {
    const title = outcome.status === 410 ? "Refused: the code is revoked" : outcome.status ? "Not done" : "The service cannot be reached";
    const reason = outcome.status === 401 ? "Enter a valid token under Access." : outcome.detail;
    return [outcome.status === 410 ? "refused" : "no", title, reason, undefined];
  }
  switch (action) {
    case "enroll": return ["yes", "Enrolled", `${subject} can be verified from this device from now on.`, undefined];
    case "renew": return ["yes", "Renewed", `${subject} has another code under a fresh key; the old one is refused.`, undefined];
    case "revoke": return ["yes", "Revoked", `The code of ${subject} is refused for ever.`, undefined];
    case "verify": {
      const { distance, threshold } = outcome;
      const score = distance !== undefined && threshold !== undefined ? { distance, threshold } : undefined;
      const reason = score ? `${score.distance} differing positions; at most ${score.threshold} match.` : "";
      return outcome.match
        ? ["yes", `Match: this is ${subject}`, reason, score]
        : ["no", `No match: not ${subject}`, reason, score];
    }
  }
}

async function act(action: Action, returning = false): Promise<void> {
  const subject = input("subject").value.trim();
  if (!subject) {
    tell("no", "Who is it?", "Enter the person's name.");
    input("subject").focus();
    return;
  }
  if (action !== "revoke" && !isUsable) return tell("no", "No face yet", "Choose a file or use the camera.");
  const mine = chosen;
  await (action === "revoke" && isSecureContext ? finding.catch(() => undefined) : loading); // it needs no networks
  const outcome = await ask("act", {
    action, subject, returning, application: input("application").value.trim(), token: input("token").value.trim(),
    other: other ? { url: other, token: input("other-token").value.trim() } : undefined,
  });
  if (outcome.status === 401) at<HTMLDetailsElement>("access").open = true;
  const told = read(action, subject, outcome);
  if (mine === chosen) {
    tell(...told);
    showCode(outcome.code);
    at("again").hidden = !(action === "enroll" && outcome.status === 410);
  }
  showSent(outcome.status ? outcome.sent : []);
  note(action, subject, told[0], told[1]);
  await showDevice();
}

// The face ---------------------------------------------------------------------------------------

async function choose(source: Blob | HTMLVideoElement): Promise<void> {
  const mine = ++chosen;
  isUsable = false;
  forget();
  at("aligned").hidden = true;
  at("pending").hidden = false;
  at("pending").textContent = "looking…";
  try {
    const picture = await small(source);
    stopCamera();
    if (mine !== chosen) return;
    at("hint").hidden = true;
    at("picture").hidden = false;
    drawPicture(at<HTMLCanvasElement>("picture"), picture);
    const shown = await createImageBitmap(picture);
    await loading;
    const face = await ask("look", { picture }, [picture]);
    if (mine !== chosen) return;
    drawPicture(at<HTMLCanvasElement>("picture"), shown, face.points);
    drawFace(at<HTMLCanvasElement>("aligned"), face);
    at("aligned").hidden = false;
    at("pending").hidden = true;
    isUsable = true;
    tell("", "A face was found", "Name the person and press a button.");
  } catch (error) {
    if (mine !== chosen) return;
    at("pending").textContent = "not usable";
    tell("no", "This picture cannot be used", messageOf(error));
  }
}

async function small(source: Blob | HTMLVideoElement): Promise<ImageBitmap> {
  let picture: ImageBitmap;
  try {
    picture = await createImageBitmap(source);
  } catch {
    throw new Error("expected a picture that this browser can read, such as JPEG or PNG");
  }
  const scale = LONGEST_SIDE / Math.max(picture.width, picture.height);
  if (scale >= 1) return picture;
  const [resizeWidth, resizeHeight] = [picture.width, picture.height].map((side) => Math.max(1, Math.round(side * scale)));
  return createImageBitmap(picture, { resizeWidth, resizeHeight, resizeQuality: "high" });
}

function stopCamera(): void {
  stream?.getTracks().forEach((track) => track.stop());
  stream = null;
  const hadFocus = document.activeElement === at("shoot") || document.activeElement === at("stop");
  for (const id of ["video", "shoot", "stop"]) at(id).hidden = true;
  at("camera").hidden = !navigator.mediaDevices;
  if (hadFocus) at("camera").focus();
}

async function startCamera(): Promise<void> {
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: 1280 }, facingMode: "user" } });
  } catch (error) {
    return tell("no", "No camera", messageOf(error));
  }
  chosen += 1;
  isUsable = false;
  forget();
  const video = at<HTMLVideoElement>("video");
  for (const id of ["picture", "hint", "aligned", "camera"]) at(id).hidden = true;
  at("pending").hidden = false;
  at("pending").textContent = "no face yet";
  for (const id of ["video", "shoot", "stop"]) at(id).hidden = false;
  video.srcObject = stream;
  await video.play();
  at("shoot").focus();
}

function leaveCamera(): void {
  stopCamera();
  at("hint").hidden = false;
}

// The key ----------------------------------------------------------------------------------------

async function showExport(): Promise<void> {
  const { text, qr } = await ask("exportKey", null);
  input("export-text").value = text;
  input("export-text").setSelectionRange(0, 0);
  at<HTMLImageElement>("export-qr").src = URL.createObjectURL(new Blob([qr], { type: "image/svg+xml" }));
  at("export-result").textContent = "";
  dialog("export-dialog").showModal();
}

/** Nothing of the key stays in the page. */
function hideExport(): void {
  input("export-text").value = "";
  URL.revokeObjectURL(at<HTMLImageElement>("export-qr").src);
  at("export-qr").removeAttribute("src");
}

async function copyExport(): Promise<void> {
  try {
    await navigator.clipboard.writeText(input("export-text").value);
    at("export-result").textContent = "Copied. Clear the clipboard when the text is where it belongs.";
  } catch {
    input("export-text").select();
    at("export-result").textContent = "The browser does not allow it: copy the selected text yourself.";
  }
}

async function importFrom(file: Blob): Promise<void> {
  try {
    const picture = await small(file);
    input("import-text").value = await ask("readQr", { picture }, [picture]);
    at("import-result").textContent = "A text was read. Press “Replace the key”.";
  } catch (error) {
    at("import-result").textContent = messageOf(error);
  }
}

async function importKey(): Promise<void> {
  try {
    await ask("importKey", { text: input("import-text").value });
    dialog("import-dialog").close();
    tell("yes", "The key was replaced", "Codes are made with the key you brought.");
  } catch (error) {
    at("import-result").textContent = messageOf(error);
    input("import-text").focus();
  }
  await showDevice();
}

async function deleteKey(): Promise<void> {
  await ask("deleteKey", null);
  dialog("delete-dialog").close();
  tell("yes", "The key was deleted", "A new one is made when it is next needed.");
  await showDevice();
}

// Start ------------------------------------------------------------------------------------------

/** Run an action of a button, without a second one meanwhile; errors are told. */
function guarded(work: () => Promise<void>, disabled: HTMLButtonElement[] = []): () => Promise<void> {
  return async () => {
    const held = disabled.filter((each) => !each.disabled);
    const focused = document.activeElement;
    for (const each of held) each.disabled = true;
    try {
      await work();
    } catch (error) {
      tell("no", "Not done", messageOf(error));
    } finally {
      for (const each of held) each.disabled = false;
      // A button that was disabled or hidden has lost the focus; whoever uses the keyboard goes on from there.
      if (focused instanceof HTMLElement && document.activeElement === document.body) {
        (focused.offsetParent ? focused : input("subject")).focus();
      }
    }
  };
}

function listen(): void {
  const actions = [...document.querySelectorAll<HTMLButtonElement>("[data-action]")];
  for (const each of actions) each.addEventListener("click", guarded(() => act(each.dataset["action"] as Action), actions));
  at("again").addEventListener("click", guarded(() => act("enroll", true), [...actions, button("again")]));
  input("subject").addEventListener("input", () => { at("again").hidden = true; });
  input("subject").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.isComposing) actions.find((each) => each.dataset["action"] === "verify")?.click();
  });
  input("file").addEventListener("change", () => {
    const file = input("file").files?.[0];
    if (file) void choose(file);
    input("file").value = "";
  });
  at("camera").addEventListener("click", guarded(startCamera, [button("camera")]));
  at("shoot").addEventListener("click", () => void choose(at<HTMLVideoElement>("video")));
  at("stop").addEventListener("click", leaveCamera);
  for (const kind of ["dragenter", "dragover", "dragleave", "drop"] as const) {
    at("drop").addEventListener(kind, (event) => {
      event.preventDefault();
      at("drop").classList.toggle("over", kind === "dragenter" || kind === "dragover");
      const file = kind === "drop" ? event.dataTransfer?.files[0] : undefined;
      if (file) void choose(file);
    });
  }
  at("show-export").addEventListener("click", guarded(showExport));
  at("export-dialog").addEventListener("close", hideExport);
  at("copy").addEventListener("click", () => void copyExport());
  at("show-import").addEventListener("click", () => {
    at("import-result").textContent = "";
    dialog("import-dialog").showModal();
  });
  at("import-dialog").addEventListener("close", () => { input("import-text").value = ""; });
  input("import-file").addEventListener("change", () => {
    const file = input("import-file").files?.[0];
    if (file) void importFrom(file);
    input("import-file").value = "";
  });
  at("import").addEventListener("click", guarded(importKey, [button("import")]));
  at("show-delete").addEventListener("click", () => dialog("delete-dialog").showModal());
  at("delete").addEventListener("click", guarded(deleteKey, [button("delete")]));
  for (const each of document.querySelectorAll<HTMLButtonElement>("[data-close]")) {
    each.addEventListener("click", () => each.closest("dialog")?.close());
  }
  const showConnection = (): void => { at("offline").hidden = navigator.onLine; };
  for (const kind of ["online", "offline"]) addEventListener(kind, showConnection);
  addEventListener("hashchange", takeLink);
  showConnection();
}

/** Take application and token out of the address, where they would stay in the browser's history. */
function takeLink(): void {
  const link = new URLSearchParams(location.hash.slice(1));
  const given = link.get("token");
  if (!given) return;
  input("token").value = given;
  input("other-token").value = link.get("other-token") ?? "";
  input("application").value = link.get("application") ?? input("application").value;
  at<HTMLDetailsElement>("access").open = false;
  history.replaceState(null, "", location.pathname);
}

/** The worker that keeps the files for a start without a connection; in charge before they are loaded. */
async function keepFiles(): Promise<void> {
  if (!navigator.serviceWorker) return;
  try {
    const registration = await navigator.serviceWorker.register("/sw.js");
    const offer = (): void => {
      if (registration.waiting && navigator.serviceWorker.controller) at("update").hidden = false;
    };
    offer();
    registration.addEventListener("updatefound", () => registration.installing?.addEventListener("statechange", offer));
    at("update-now").addEventListener("click", () => {
      navigator.serviceWorker.addEventListener("controllerchange", () => location.reload(), { once: true });
      registration.waiting?.postMessage("use now");
    });
    if (navigator.serviceWorker.controller) return;
    await new Promise<void>((done) => {
      navigator.serviceWorker.addEventListener("controllerchange", () => done(), { once: true });
      setTimeout(done, 5000);
    });
  } catch (error) {
    at("version").append(` It cannot be kept for use without a connection: ${messageOf(error)}`);
  }
}

/** Address of the manifest, from the service or, without one, from the last time. */
async function findManifest(): Promise<string> {
  let health: { on_device?: boolean; manifest?: string; other?: string | null };
  try {
    const answer = await fetch("/health/ready", { cache: "no-store" });
    if (!answer.ok) throw new Error(`the service answers with ${answer.status}`);
    health = (await answer.json()) as typeof health;
  } catch (error) {
    at("offline").hidden = false;
    const last = localStorage.getItem(MANIFEST);
    takeOther(localStorage.getItem(OTHER));
    if (last) return last;
    throw new Error(`this page was never loaded completely, and the service cannot be reached now: ${messageOf(error)}`);
  }
  if (!health.on_device || !health.manifest) throw new Error("the service does not offer verification on the device");
  localStorage.setItem(MANIFEST, health.manifest);
  if (health.other) localStorage.setItem(OTHER, health.other);
  else localStorage.removeItem(OTHER);
  takeOther(health.other);
  return health.manifest;
}

/** Send codes in two shares from now on, where there is another service. */
function takeOther(address: string | null | undefined): void {
  other = address || undefined;
  at("other-access").hidden = !other;
}

/** Load the networks; what needs them waits for it. */
async function load(): Promise<void> {
  if (!isSecureContext) {
    throw new Error("a browser lends keys and cameras only to pages of https:// or localhost: open this page by such an address");
  }
  finding = keepFiles().then(findManifest);
  await ask("load", { manifest: await finding });
  at("loading").hidden = true;
  setState(at("offline").hidden ? "ready" : "ready, no connection", "yes");
  await showDevice();
}

listen();
takeLink();
showTour();
at("version").prepend(`Page ${VERSION}. `);
at("camera").hidden = !navigator.mediaDevices;
setState("loading…");
loading = load();
loading.catch((error: unknown) => {
  setState("not ready", "no");
  at("loaded").textContent = `Loading failed: ${messageOf(error)}`;
  at("loaded").setAttribute("role", "alert");
  at("progress").hidden = true;
});
