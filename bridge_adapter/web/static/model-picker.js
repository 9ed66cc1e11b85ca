/** Which model answers: one list, or two while comparing. */
import { element } from "./element.js";

export class ModelPicker {
  #place;
  #preferences;
  #models = [];

  constructor(place, preferences) {
    this.#place = place;
    this.#preferences = preferences;
    preferences.addEventListener("change", () => this.draw());
  }

  /** Takes the models the server has; a side whose model is gone gets the first. */
  offer(models) {
    this.#models = models;
    this.#preferences.change(({ sides }) => {
      for (const side of Object.values(sides)) if (!models.includes(side.model)) side.model = models[0] ?? "";
    });
  }

  draw() {
    const { compare, sides } = this.#preferences;
    const chosen = (compare ? ["A", "B"] : ["A"]).map((side) => [side, sides[side].model]);
    const mark = JSON.stringify([this.#models, chosen]);
    if (mark === this.#place.dataset.drawn) return;
    this.#place.dataset.drawn = mark;
    this.#place.replaceChildren(...chosen.map(([side, model]) => this.#picker(side, model, compare)));
  }

  #picker(side, model, compare) {
    return element(
      "label",
      { "data-param": "model" },
      element("span", { class: compare ? "side" : "visually-hidden" }, compare ? side : "Model"),
      element(
        "select",
        {
          "aria-label": compare ? `Model ${side}` : "Model",
          onchange: ({ target }) => this.#preferences.change(({ sides }) => (sides[side].model = target.value)),
        },
        this.#models.map((name) => element("option", { value: name, selected: name === model }, name)),
      ),
    );
  }
}
