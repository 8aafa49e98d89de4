// Asks the service. The API key stays in this tab: sessionStorage ends with it.

const KEY = "singleshot-api-key";

/** What the service refuses, or that it does not answer (status 0). retryAfter: seconds, null where trying again is of no use. */
export class ServiceError extends Error {
  constructor(message, status, code, retryAfter = null) {
    super(message);
    Object.assign(this, { status, code, retryAfter });
  }
}

export class Service {
  /** askKey: gives a key that the user enters for a message, or null; key: one that is known already. */
  constructor(askKey, key = null) {
    this.askKey = askKey;
    this.key = key ?? sessionStorage.getItem(KEY);
  }

  forgetKey() {
    this.key = null;
    sessionStorage.removeItem(KEY);
  }

  async models() {
    return (await this.ask("v1/models")).models;
  }

  /** What is found in one picture: {model, image: {image, width, height, detections}, orientation, times}. */
  async detect(file, name, model, scoreMin, signal) {
    const body = new FormData();
    body.append("file", await readable(file), name);
    const options = new URLSearchParams({ model, score_min: String(scoreMin) });
    const answer = await this.ask(`v1/detect?${options}`, { method: "POST", body, signal });
    return { model: answer.model, image: answer.images[0], orientation: answer.orientations[0], times: answer.times_ms };
  }

  /** Where each detection of one picture comes from: {image, width, height, detections, maps, notes}. */
  async explain(file, name, model, scoreMin) {
    const body = new FormData();
    body.append("file", await readable(file), name);
    const options = new URLSearchParams({ model, score_min: String(scoreMin) });
    return (await this.ask(`v1/explain?${options}`, { method: "POST", body })).images[0];
  }

  async ask(path, request = {}) {
    return (await this.answer(path, request)).json();
  }

  async answer(path, request = {}) {
    for (;;) {
      const response = await this.send(path, request);
      if (response.ok) {
        if (this.key !== null) sessionStorage.setItem(KEY, this.key);
        return response;
      }
      const error = await refusal(response);
      if (error.status !== 401) throw error;
      const message = this.key === null ? "This service wants an API key." : "That key is not the one of this service.";
      this.forgetKey();
      this.key = await this.askKey(message);
      if (this.key === null) throw new ServiceError(error.message, 401, error.code, 0);
    }
  }

  async send(path, request) {
    const headers = { ...request.headers, ...(this.key === null ? {} : { "X-API-Key": this.key }) };
    try {
      return await fetch(path, { ...request, headers, cache: "no-store", credentials: "omit" });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ServiceError("The service does not answer: it was stopped, or the network is down.", 0, "no_answer", 0);
    }
  }
}

async function refusal(response) {
  const seconds = Number(response.headers.get("Retry-After") ?? NaN);
  const retryAfter = Number.isFinite(seconds) ? Math.min(Math.max(seconds, 0), 600) : response.status >= 500 ? 0 : null;
  let code = "unknown";
  let message = `The service answers with status ${response.status}.`;
  try {
    ({ code, message } = (await response.json()).error);
  } catch {
    // an answer of a proxy in between, which has its own form: the status is all there is
  }
  return new ServiceError(String(message), response.status, String(code), retryAfter);
}

/** The file, once it is sure that it can still be read: fetch would call that a network's error. */
async function readable(file) {
  try {
    await file.slice(0, 1).arrayBuffer();
  } catch {
    throw new ServiceError("The file was changed or removed since it was opened; open it again.", 0, "no_file");
  }
  return file;
}
