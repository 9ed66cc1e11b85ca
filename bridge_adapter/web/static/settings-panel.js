/** The settings as a form; while comparing, one tab for A and one for B. Every change is kept at once. */
import { element } from "./element.js";
import { NUMBERS } from "./settings.js";
import { tabs } from "./tabs.js";
import { toolEditor } from "./tool-editor.js";

export class SettingsPanel {
  #panel;
  #preferences;
  #side = "A";
  #compare = null;

  constructor(panel, preferences) {
    this.#panel = panel;
    this.#preferences = preferences;
    preferences.addEventListener("change", () => preferences.compare !== this.#compare && this.draw());
    this.draw();
  }

  draw() {
    this.#compare = this.#preferences.compare;
    const title = element("h2", {}, "Settings");
    const form = (side) => () => {
      this.#side = side;
      return this.#form(side);
    };
    if (this.#compare)
      this.#panel.replaceChildren(title, ...tabs("Settings of", { A: form("A"), B: form("B") }, this.#side));
    else this.#panel.replaceChildren(title, form("A")());
  }

  /** Marks a setting as the one an error is about, and puts the focus there. */
  show(side, name, message) {
    if (this.#compare && side !== this.#side) {
      this.#side = side;
      this.draw();
    }
    const field = this.#panel.querySelector(`[data-param="${name}"]`);
    if (!field) return;
    const control = field.querySelector("input, textarea, select, button");
    field.querySelector(".wrong")?.remove();
    const note = element("small", { class: "wrong", id: `wrong-${name}` }, message);
    field.append(note);
    control.setAttribute("aria-invalid", "true");
    control.setAttribute("aria-describedby", note.id);
    control.addEventListener(
      "input",
      () => {
        note.remove();
        control.removeAttribute("aria-invalid");
        control.removeAttribute("aria-describedby");
      },
      { once: true },
    );
    control.focus();
  }

  #form(side) {
    const settings = this.#preferences.sides[side];
    const change = (edit, redraw = false) => {
      this.#preferences.change(({ sides }) => edit(sides[side]));
      if (redraw) this.draw();
    };
    return element(
      "form",
      { onsubmit: (event) => event.preventDefault() },
      area(null, "System text", settings.system, 4, (value) => change((now) => (now.system = value))),
      element(
        "div",
        { class: "grid" },
        NUMBERS.map(({ name, label, hint }) =>
          number(name, label, hint, settings[name], (value) => change((now) => (now[name] = value))),
        ),
      ),
      area(
        "stop",
        "Stop, one a line",
        settings.stop,
        2,
        (value) => change((now) => (now.stop = value)),
        "\\n is a line break",
      ),
      format(settings, change),
      settings.format === "json_schema" &&
        area("response_format", "JSON schema", settings.schema, 10, (value) => change((now) => (now.schema = value))),
      toolEditor(settings, change),
      element("p", { class: "hint" }, "An empty field is not sent: the server's default holds."),
    );
  }
}

function number(param, label, hint, value, keep) {
  const field = element("input", {
    value,
    placeholder: hint,
    inputmode: "decimal",
    autocomplete: "off",
    oninput: ({ target }) => keep(target.value),
  });
  return element("label", { "data-param": param }, element("span", {}, label), field);
}

function area(param, label, value, rows, keep, placeholder = "") {
  const field = element("textarea", {
    rows,
    placeholder,
    class: param && "mono",
    spellcheck: param && "false",
    oninput: ({ target }) => keep(target.value),
  });
  field.value = value;
  return element("label", { "data-param": param }, element("span", {}, label), field);
}

function format(settings, change) {
  const options = { text: "Text", json_object: "JSON object", json_schema: "JSON by schema" };
  return element(
    "label",
    { "data-param": settings.format === "json_schema" ? null : "response_format" },
    element("span", {}, "Answer as"),
    element(
      "select",
      { onchange: ({ target }) => change((now) => (now.format = target.value), true) },
      Object.entries(options).map(([value, name]) =>
        element("option", { value, selected: value === settings.format }, name),
      ),
    ),
  );
}
