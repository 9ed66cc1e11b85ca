/**
 * Server-sent events, as far as ChatCompletions uses them: pieces of text in, whole `data` fields out.
 * Pure; knows neither the network nor what the data mean.
 */
export class SseParser {
  #rest = "";
  #data = [];

  /** Takes the next piece, wherever it was cut, and returns the data of every event it finished. */
  push(text) {
    // A "\r" at the very end may be half of "\r\n": it waits for the next piece.
    const lines = (this.#rest + text).split(/\r\n|\n|\r(?!$)/);
    this.#rest = lines.pop();
    const finished = [];
    for (const line of lines) {
      if (line === "") {
        if (this.#data.length) finished.push(this.#data.join("\n"));
        this.#data = [];
      } else if (line === "data" || line.startsWith("data:")) {
        this.#data.push(line.slice(5).replace(/^ /, ""));
      }
    }
    return finished;
  }
}
