/**
 * Where conversations are kept: IndexedDB, in this browser alone. Knows records by their id, not what is in them.
 * Each is one text: copying the many small objects of a long answer would hold the page up for longer.
 */
const NAME = "truss-openai-bridge";
const STORE = "conversations";

export class Library {
  #database = null;

  static async open() {
    const library = new Library();
    const opening = indexedDB.open(NAME, 1);
    opening.onupgradeneeded = () => opening.result.createObjectStore(STORE, { keyPath: "id" });
    library.#database = await settled(opening);
    return library;
  }

  /** Every record, last changed first. */
  async all() {
    const kept = await settled(this.#store("readonly").getAll());
    const records = kept.map(({ text }) => JSON.parse(text));
    return records.sort((a, b) => b.updatedAt - a.updatedAt);
  }

  put(record) {
    return settled(this.#store("readwrite").put({ id: record.id, text: JSON.stringify(record) }));
  }

  delete(id) {
    return settled(this.#store("readwrite").delete(id));
  }

  #store(mode) {
    return this.#database.transaction(STORE, mode).objectStore(STORE);
  }
}

/** In place of a library where the browser allows none. */
export class Forgetful {
  async all() {
    return [];
  }

  async put() {}

  async delete() {}
}

function settled(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}
