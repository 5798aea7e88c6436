/**
 * Cache of the page for a start without a connection.
 *
 * Files of the page stand under names that carry their hash, so that a kept one is always right; a new version waits
 * until the person takes it. The files of the networks are kept until their manifest changes; the client library checks
 * each against it. Requests to the service itself (`/v1`, `/health`) are never kept.
 */

import { NETWORKS_CACHE as NETWORKS, PAGE_CACHE } from "./cache_names.js";

declare const self: ServiceWorkerGlobalScope;
declare const VERSION: string;
declare const SHELL: string[];

const PAGE = PAGE_CACHE + VERSION;

self.addEventListener("install", (event) => {
  event.waitUntil(caches.open(PAGE).then((cache) => cache.addAll(SHELL.map((url) => new Request(url, { cache: "reload" })))));
});

self.addEventListener("activate", (event) => {
  event.waitUntil(dropOldVersions().then(() => self.clients.claim()));
});

self.addEventListener("message", (event) => {
  if (event.data === "use now") event.waitUntil(self.skipWaiting());
});

self.addEventListener("fetch", (event) => {
  const { request } = event;
  const { origin, pathname } = new URL(request.url);
  if (request.method !== "GET" || origin !== self.location.origin) return;
  if (pathname === "/" || SHELL.includes(pathname) || pathname.startsWith("/client/")) kept(event, PAGE);
  else if (/^\/artefact\/[^/]+\.json$/.test(pathname)) event.respondWith(manifest(request));
  else if (pathname.startsWith("/artefact/")) kept(event, NETWORKS);
});

async function dropOldVersions(): Promise<void> {
  for (const name of await caches.keys()) if (name.startsWith(PAGE_CACHE) && name !== PAGE) await caches.delete(name);
}

/** Addresses that are being written to a cache. */
const writes = new Map<string, Promise<void>>();

/** Answer with a file from a cache, else from the service; it is kept while the page reads it already. */
function kept(event: FetchEvent, name: string): void {
  const { pathname } = new URL(event.request.url);
  const answer = found(name, pathname).then((file) => file ?? fetch(event.request));
  event.respondWith(answer.then((file) => file.clone()));
  event.waitUntil(answer.then((file) => write(name, pathname, file)).catch(() => undefined)); // the page sees the error
}

async function found(name: string, pathname: string): Promise<Response | undefined> {
  await writes.get(pathname);
  return (await caches.open(name)).match(pathname);
}

async function write(name: string, pathname: string, file: Response): Promise<void> {
  const cache = await caches.open(name);
  if (file.status !== 200 || (await cache.match(pathname))) return;
  const written = cache.put(pathname, file).finally(() => writes.delete(pathname));
  writes.set(pathname, written.catch(() => undefined));
  await written;
}

/** The manifest of the service, or the kept one; files that another manifest named are dropped. */
async function manifest(request: Request): Promise<Response> {
  const cache = await caches.open(NETWORKS);
  const address = new URL(request.url).pathname;
  const old = await cache.match(address);
  let answer: Response;
  try {
    answer = await fetch(request, { cache: "no-cache" });
  } catch (error) {
    if (old) return old;
    throw error;
  }
  if (answer.status !== 200) return answer;
  const [before, now] = await Promise.all([old?.text(), answer.clone().text()]);
  if (before !== now) {
    await caches.delete(NETWORKS);
    await (await caches.open(NETWORKS)).put(address, answer.clone());
  }
  return answer;
}
