/** Names of the service worker's caches. */

/** Files of an artefact, until its manifest changes. */
export const NETWORKS_CACHE = "iom-networks";
/** Files of the page; the version follows. */
export const PAGE_CACHE = "iom-page-";
