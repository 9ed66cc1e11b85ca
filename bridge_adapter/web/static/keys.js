/** The caller's API key: asked for when the server wants one, kept in this tab's session alone. */
const NAME = "truss-openai-bridge/key";

export class Keys {
  #dialog;
  #asking = null;

  constructor(dialog) {
    this.#dialog = dialog;
    dialog.querySelector("[data-cancel]").addEventListener("click", () => dialog.close());
  }

  current() {
    return sessionStorage.getItem(NAME);
  }

  /** Resolves to whether the user gave a key; questions at the same time share one dialog. */
  ask(message) {
    this.#asking ??= this.#prompt(message).finally(() => {
      this.#asking = null;
    });
    return this.#asking;
  }

  #prompt(message) {
    const dialog = this.#dialog;
    const field = dialog.querySelector("input");
    dialog.querySelector("[data-message]").textContent = message;
    field.value = "";
    dialog.returnValue = "";
    dialog.showModal();
    return new Promise((resolve) => {
      dialog.addEventListener("close", () => resolve(this.#given(dialog.returnValue, field.value.trim())), {
        once: true,
      });
    });
  }

  #given(answer, key) {
    if (answer !== "use" || !key) return false;
    sessionStorage.setItem(NAME, key);
    return true;
  }
}
