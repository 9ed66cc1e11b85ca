/** The page: makes the parts, joins them, and shows what was kept. */
import { Api } from "./api.js";
import { Chat } from "./chat.js";
import { Composer } from "./composer.js";
import { Conversation } from "./conversation.js";
import { ConversationList, download, upload } from "./conversation-list.js";
import { Drawer } from "./drawer.js";
import { element } from "./element.js";
import { errorCard } from "./error-card.js";
import { inspector } from "./inspector.js";
import { Keys } from "./keys.js";
import { Forgetful, Library } from "./library.js";
import { ModelPicker } from "./model-picker.js";
import { Preferences } from "./preferences.js";
import { settingOf } from "./settings.js";
import { SettingsPanel } from "./settings-panel.js";
import { themeButton } from "./theme.js";
import { ThreadView } from "./thread-view.js";

const $ = (id) => document.getElementById(id);

class Page {
  preferences = new Preferences(localStorage);
  #api = new Api(document.baseURI, new Keys($("key")));
  #library;
  #notices = new Map();
  #askingModels = false;
  #sendWhenKnown = false;

  async start() {
    themeButton($("theme"), this.preferences);
    const unkept = await this.#openLibrary();
    this.conversations = (await this.#library.all()).map((record) => new Conversation(mended(record)));
    this.chat = new Chat(this.#api, this.#library, this.conversations[0] ?? Conversation.empty());
    if (!this.conversations.length) this.conversations.push(this.chat.conversation);
    this.thread = new ThreadView($("thread"), $("scroller"), this.chat, this);
    this.composer = new Composer($("composer"), this);
    this.list = new ConversationList($("conversations"), this);
    this.panel = new SettingsPanel($("settings"), this.preferences);
    this.models = new ModelPicker($("models"), this.preferences);
    this.listDrawer = new Drawer($("list"), $("list-toggle"), { open: true });
    this.settingsDrawer = new Drawer($("settings"), $("settings-toggle"));
    this.#listen();
    this.#draw();
    document.body.inert = false;
    this.composer.focus();
    if (unkept) this.#notice("library", unkept);
    await this.#offerModels();
  }

  // A browser may refuse to keep anything; the page works without, and says so.
  async #openLibrary() {
    try {
      this.#library = await Library.open();
    } catch (error) {
      this.#library = new Forgetful();
      return new Error(`This browser keeps no conversations: ${error.message}`);
    }
  }

  get current() {
    return this.chat.conversation;
  }

  // What the messages' buttons call.

  /** Where a message stands in the conversation, and what may be done with it now. */
  place(node) {
    const { conversation } = this.chat;
    const path = conversation.path();
    return {
      canChange: !this.chat.busy,
      siblings: conversation.branches(node),
      last: path.at(-1) === node,
      chosen: conversation.shows(node),
    };
  }

  show = (id) => {
    this.chat.show(id);
    this.thread.view(id).focus();
  };
  redraw = (node) => this.thread.redraw(node.id);
  again = (node) => this.#tried(() => this.chat.again(node, this.preferences.sides[node.side]));
  edit = (node, text) => this.#tried(() => this.chat.edit(node, text, this.preferences.settings));
  giveResults = (node, results) =>
    this.#tried(() => this.chat.giveResults(node, results, this.preferences.sides[node.side]));

  /** What reveals the setting an error is about; null where it is about none. */
  revealer(error, side) {
    const name = settingOf(error.param);
    if (name === "model") return () => $("models").querySelector("select").focus();
    return (
      name &&
      (() => {
        this.settingsDrawer.toggle(true);
        this.panel.show(side, name, error.message);
      })
    );
  }

  inspect(node) {
    $("inspect-body").replaceChildren(...inspector(node, this.#api.base));
    $("inspect").showModal();
  }

  // What the composer calls.

  send(text) {
    if (this.chat.busy) return false;
    const { settings } = this.preferences;
    if (this.#askingModels && settings.some(({ model }) => !model)) {
      this.#sendWhenKnown = true;
      return false;
    }
    return this.#tried(() => this.chat.ask(text, settings));
  }

  stop() {
    this.chat.stop();
  }

  editLast() {
    const last = this.current.path().findLast(({ role }) => role === "user");
    if (last && !this.chat.busy) this.thread.view(last.id).edit();
  }

  // What the list calls.

  open(conversation) {
    this.chat.open(conversation);
    this.listDrawer.closeIfOver();
    this.thread.follow();
    this.composer.focus();
  }

  async remove(conversation) {
    if (!confirm(`Delete “${conversation.title}”?`)) return;
    this.conversations.splice(this.conversations.indexOf(conversation), 1);
    await this.chat.remove(conversation);
    if (conversation === this.current) this.#openFirst();
    this.#draw();
  }

  async renamed(conversation) {
    await this.#library.put(conversation.record);
    this.#draw();
  }

  #openFirst() {
    if (!this.conversations.length) this.conversations.push(Conversation.empty());
    this.chat.open(this.conversations[0]);
  }

  #new() {
    if (this.current.record.nodes.length) {
      const empty = this.conversations.find(({ record }) => !record.nodes.length) ?? Conversation.empty();
      this.conversations = [empty, ...this.conversations.filter((each) => each !== empty)];
      this.chat.open(empty);
    }
    this.listDrawer.closeIfOver();
    this.composer.focus();
  }

  async #import([file]) {
    try {
      const records = await upload(file, new Set(this.conversations.map(({ id }) => id)));
      for (const record of records) await this.#library.put(record);
      this.conversations = [...records.map((record) => new Conversation(record)), ...this.conversations];
      this.#openFirst();
      this.#forget("import");
    } catch (error) {
      this.#notice("import", error);
    }
  }

  #listen() {
    $("new").addEventListener("click", () => this.#new());
    $("export").addEventListener("click", () => download([this.current.record]));
    $("export-all").addEventListener("click", () =>
      download(this.conversations.map(({ record }) => record).filter(({ nodes }) => nodes.length)),
    );
    $("import").addEventListener("click", () => $("import-file").click());
    $("import-file").addEventListener("change", ({ target }) => {
      if (target.files.length) this.#import(target.files);
      target.value = "";
    });
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && !document.querySelector("dialog[open]") && this.chat.busy) this.stop();
    });
    this.chat.addEventListener("thread", () => this.#draw());
    this.chat.addEventListener("unsaved", ({ detail }) =>
      this.#notice("library", new Error(`The conversation could not be kept: ${detail}`)),
    );
  }

  // What throws at once is a setting that makes no request; what fails later becomes the answer's own error.
  #tried(act) {
    try {
      act();
      $("refused").replaceChildren();
      this.thread.follow();
      return true;
    } catch (error) {
      $("refused").replaceChildren(errorCard(error, { reveal: this.revealer(error, error.side ?? "A") }));
      return false;
    }
  }

  // Who sends before the models are known has the message kept in the field; it goes out with the first of them.
  async #offerModels() {
    this.#askingModels = true;
    try {
      this.models.offer(await this.#api.models());
      this.#forget("models");
    } catch (error) {
      this.#sendWhenKnown = false;
      this.#notice("models", error, () => this.#offerModels());
    }
    this.#askingModels = false;
    if (this.#sendWhenKnown) {
      this.#sendWhenKnown = false;
      this.composer.send();
    }
  }

  // An error stands beside those about other things, and until this one is over.
  #notice(about, error, retry = null) {
    this.#forget(about);
    this.#notices.set(about, errorCard(error, { retry }));
    $("notice").append(this.#notices.get(about));
  }

  #forget(about) {
    this.#notices.get(about)?.remove();
    this.#notices.delete(about);
  }

  #draw() {
    const { busy, conversation } = this.chat;
    const was = document.body.dataset.busy;
    document.body.dataset.busy = String(busy);
    if (was && was !== String(busy))
      $("status").textContent = busy ? "The model is answering." : "The answer has ended.";
    $("welcome").hidden = conversation.record.nodes.length > 0;
    $("address").replaceChildren(
      "This page speaks to ",
      element("code", {}, this.#api.base),
      ", as any OpenAI client can.",
    );
    document.title = conversation.record.title ? `${conversation.title} · Bridge` : "Bridge: talk to the model";
    this.composer.draw(busy);
    this.list.draw();
  }
}

// An answer that was running when the page was left has stopped with it.
function mended(record) {
  for (const node of record.nodes) if (node.state === "running") node.state = "stopped";
  return record;
}

new Page().start();
