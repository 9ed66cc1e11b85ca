/** Light, dark, or as the system has it. */
import { icon } from "./element.js";

const NEXT = { system: "light", light: "dark", dark: "system" };

export function themeButton(button, preferences) {
  const draw = () => {
    const { theme } = preferences;
    if (theme === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    button.title = `Colours: ${theme}`;
    button.setAttribute("aria-label", button.title);
    button.replaceChildren(icon(theme));
  };
  button.addEventListener("click", () => {
    preferences.change((now) => {
      now.theme = NEXT[now.theme];
    });
    draw();
  });
  draw();
}
