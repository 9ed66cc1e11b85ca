/** Where a message is written and sent, and where an answer is stopped. */
export class Composer {
  #form;
  #field;

  /** `page` has send(text) => whether it went out, stop, editLast and preferences. */
  constructor(form, page) {
    this.#form = form;
    this.#field = form.querySelector("#prompt");
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#send(page);
    });
    this.#field.addEventListener("keydown", (event) => this.#key(event, page));
    this.#field.addEventListener("input", () => this.#fit());
    form.querySelector("#stop").addEventListener("click", () => page.stop());
    const flip = (change) => () => page.preferences.change(change);
    form.querySelector("#logprobs").addEventListener(
      "click",
      flip(({ sides }) => {
        const on = !sides.A.logprobs;
        for (const side of Object.values(sides)) side.logprobs = on;
      }),
    );
    form.querySelector("#compare").addEventListener(
      "click",
      flip((preferences) => {
        preferences.compare = !preferences.compare;
      }),
    );
    page.preferences.addEventListener("change", () => this.#pressed(page.preferences));
    this.#pressed(page.preferences);
  }

  /** Shows Stop in place of Send while an answer is coming. */
  draw(busy) {
    const stop = this.#form.querySelector("#stop");
    const send = this.#form.querySelector("#send");
    const focused = document.activeElement;
    stop.hidden = !busy;
    send.hidden = busy;
    if (focused === stop || focused === send) this.focus();
  }

  focus() {
    this.#field.focus();
  }

  #send(page) {
    if (this.#field.value.trim() && page.send(this.#field.value)) {
      this.#field.value = "";
      this.#fit();
    }
  }

  #key(event, page) {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      this.#send(page);
    } else if (event.key === "ArrowUp" && !this.#field.value) {
      event.preventDefault();
      page.editLast();
    }
  }

  #fit() {
    this.#field.style.height = "auto";
    this.#field.style.height = `${this.#field.scrollHeight}px`;
  }

  #pressed({ sides, compare }) {
    this.#form.querySelector("#logprobs").setAttribute("aria-pressed", String(sides.A.logprobs));
    this.#form.querySelector("#compare").setAttribute("aria-pressed", String(compare));
  }
}
