// The camera: one frame after the other, the next only after the answer to the last.

const WANTED = { video: { facingMode: "environment", width: { ideal: 1280 }, height: { ideal: 720 } }, audio: false };
const RATED = 10; // answers that the rate is taken over

const REASONS = {
  NotAllowedError: "The browser was not allowed to use the camera; allow it for this page and try again.",
  NotFoundError: "There is no camera.",
  NotReadableError: "The camera is in use by another program.",
};

export class Camera {
  /** onFrame: a promise-giving function of {bitmap, file}; it decides when the next one comes. */
  constructor(onFrame) {
    this.onFrame = onFrame;
    this.stream = null;
  }

  get isOn() {
    return this.stream !== null;
  }

  /** Frames until `stop`. Throws an Error with a line for people where there is no camera. */
  async start() {
    if (!navigator.mediaDevices) throw new Error("Browsers give a camera to pages over https or on this machine only.");
    let stream;
    try {
      stream = await navigator.mediaDevices.getUserMedia(WANTED);
    } catch (error) {
      throw new Error(REASONS[error.name] ?? `The camera does not start: ${error.message}`);
    }
    this.stream = stream;
    stream.getVideoTracks()[0].addEventListener("ended", () => this.stop());
    const video = Object.assign(document.createElement("video"), { srcObject: stream, muted: true, playsInline: true });
    try {
      await video.play();
      await this.run(stream, video);
    } finally {
      video.srcObject = null;
      if (this.stream === stream) this.stop();
    }
  }

  async run(stream, video) {
    const canvas = document.createElement("canvas");
    const times = [];
    while (this.stream === stream) {
      const bitmap = await createImageBitmap(video);
      Object.assign(canvas, { width: bitmap.width, height: bitmap.height });
      canvas.getContext("2d").drawImage(bitmap, 0, 0);
      const blob = await new Promise((done) => canvas.toBlob(done, "image/jpeg", 0.92));
      if (this.stream !== stream) return;
      const rate = times.length < 2 ? null : (1000 * (times.length - 1)) / (times.at(-1) - times[0]);
      await this.onFrame({ bitmap, file: blob, rate });
      times.push(performance.now());
      if (times.length > RATED) times.shift();
    }
  }

  stop() {
    this.stream?.getTracks().forEach((track) => track.stop());
    this.stream = null;
  }
}
