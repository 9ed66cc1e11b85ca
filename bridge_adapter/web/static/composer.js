/** Where a message is written and sent, and where an answer is stopped. */
export class Composer {
  #form;
  #field;
  #page;

  /** `page` has send(text) => whether it went out, stop, editLast and preferences. */
  constructor(form, page) {
    this.#form = form;
    this.#field = form.querySelector("#prompt");
    this.#page = page;
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.send();
    });
    this.#field.addEventListener("keydown", (event) => this.#key(event));
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
    this.#field.readOnly = false;
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

  /** Sends what stands in the field and empties it; a message the page does not take stays. */
  send() {
    if (this.#field.value.trim() && this.#page.send(this.#field.value)) {
      this.#field.value = "";
      this.#fit();
    }
  }

  #key(event) {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      this.send();
    } else if (event.key === "ArrowUp" && !this.#field.value) {
      event.preventDefault();
      this.#page.editLast();
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
