/** A panel at the side that its button opens and closes; on a narrow screen it lies over the page, Escape closes it. */
const narrow = matchMedia("(max-width: 60rem)");

export class Drawer {
  #panel;
  #button;

  constructor(panel, button, { open = false } = {}) {
    this.#panel = panel;
    this.#button = button;
    button.addEventListener("click", () => this.toggle(panel.hidden));
    panel.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && narrow.matches) this.close();
    });
    document.addEventListener("pointerdown", ({ target }) => {
      if (narrow.matches && !panel.contains(target) && !button.contains(target)) this.toggle(false);
    });
    this.toggle(open && !narrow.matches);
  }

  toggle(open) {
    this.#panel.hidden = !open;
    this.#button.setAttribute("aria-expanded", String(open));
  }

  close() {
    this.toggle(false);
    this.#button.focus();
  }

  /** Closes where it hides the page, as after a choice made in it. */
  closeIfOver() {
    if (narrow.matches) this.toggle(false);
  }
}
