/** The conversations kept, newest first: open, rename and delete; export and import are files. */
import { exportText, importText } from "./archive.js";
import { element, iconButton } from "./element.js";

export class ConversationList {
  #list;
  #page;

  /** `page` has conversations, current, open, remove, renamed. */
  constructor(list, page) {
    this.#list = list;
    this.#page = page;
  }

  draw() {
    const { conversations, current } = this.#page;
    this.#list.replaceChildren(...conversations.map((each) => this.#item(each, each === current)));
  }

  #item(conversation, current) {
    return element(
      "li",
      { class: current ? "current" : null },
      element(
        "button",
        {
          type: "button",
          class: "open",
          "aria-current": current ? "page" : null,
          onclick: () => this.#page.open(conversation),
        },
        conversation.title,
      ),
      iconButton("edit", `Rename ${conversation.title}`, (event) =>
        this.#rename(event.target.closest("li"), conversation),
      ),
      iconButton("delete", `Delete ${conversation.title}`, () => this.#page.remove(conversation)),
    );
  }

  #rename(item, conversation) {
    const field = element("input", { "aria-label": "Title", maxlength: 120 });
    field.value = conversation.title;
    let open = true;
    const finish = (keep) => {
      if (!open) return;
      open = false;
      if (keep && field.value.trim()) conversation.record.title = field.value.trim();
      this.#page.renamed(conversation);
    };
    field.addEventListener("keydown", (event) => {
      if (event.key === "Enter") finish(true);
      if (event.key === "Escape") finish(false);
    });
    field.addEventListener("blur", () => finish(true));
    item.replaceChildren(field);
    field.select();
  }
}

/** Hands the user a file with these conversations. */
export function download(records) {
  const url = URL.createObjectURL(new Blob([exportText(records)], { type: "application/json" }));
  const name = records.length === 1 ? "conversation.json" : "conversations.json";
  element("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

/** The records in a file the user chose; those that are here already come in under a new id. */
export async function upload(file, taken) {
  return importText(await file.text()).map((record) =>
    taken.has(record.id) ? { ...record, id: crypto.randomUUID() } : record,
  );
}
