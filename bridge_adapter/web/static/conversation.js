/**
 * A conversation: a tree of messages in which one branch is the one shown. Pure data, safe to store and to export.
 * Knows nothing of the API's requests or of the page.
 */
const ROOT = "";

export class Conversation {
  #byId = new Map();
  #below = new Map();

  /** `record` is the plain object that is kept; this class only reads and changes it. */
  constructor(record) {
    this.record = record;
    for (const node of record.nodes) this.#index(node);
  }

  static empty(now = Date.now()) {
    return new Conversation({
      id: crypto.randomUUID(),
      title: "",
      createdAt: now,
      updatedAt: now,
      nodes: [],
      shown: {},
    });
  }

  get id() {
    return this.record.id;
  }

  get title() {
    return this.record.title || "New conversation";
  }

  node(id) {
    return this.#byId.get(id) ?? null;
  }

  /** Adds a message below `parent` (null: at the top) and shows it. */
  add(parent, message) {
    const node = { ...message, id: crypto.randomUUID(), parent: parent ?? ROOT };
    this.record.nodes.push(node);
    this.#index(node);
    this.show(node.id);
    if (!this.record.title && node.role === "user") this.record.title = title(node.content);
    return node;
  }

  /** Makes a message the one shown among its siblings. */
  show(id) {
    this.record.shown[this.node(id).parent] = id;
    this.record.updatedAt = Date.now();
  }

  children(parent) {
    return this.#below.get(parent ?? ROOT) ?? [];
  }

  siblings(id) {
    return this.children(this.node(id).parent);
  }

  /** The branches at a message, itself among them; the two answers of a pair are one branch. */
  branches(node) {
    return this.siblings(node.id).filter(
      (each) => each === node || !each.pair || (each.pair !== node.pair && each.side === "A"),
    );
  }

  shows(node) {
    return this.record.shown[node.parent] === node.id;
  }

  /** The messages shown, first to last. */
  path() {
    const path = [];
    for (let parent = ROOT; ; parent = path.at(-1).id) {
      const children = this.children(parent);
      if (!children.length) return path;
      path.push(children.find((node) => node.id === this.record.shown[parent]) ?? children.at(-1));
    }
  }

  #index(node) {
    this.#byId.set(node.id, node);
    this.#below.set(node.parent, [...this.children(node.parent), node]);
  }

  /** The messages from the top down to and with `id`, whichever branch is shown. */
  lineage(id) {
    const lineage = [];
    for (let node = id && this.node(id); node; node = this.node(node.parent)) lineage.unshift(node);
    return lineage;
  }
}

function title(text) {
  const line = text.trim().split("\n", 1)[0];
  return line.length > 60 ? `${line.slice(0, 59).trimEnd()}…` : line;
}
