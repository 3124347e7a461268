/** Where the server's paths begin: all of it may live below a prefix (--web.external-url). */
export const base = new URL(document.baseURI).pathname.replace(/\/$/, '');
