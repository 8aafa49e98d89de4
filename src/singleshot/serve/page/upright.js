// Pictures as the service sees them. Files say in several ways how their pixels are turned, of which a browser applies
// some; createImageBitmap has no way to apply none. So what it would read is taken out, and the turn is made here.

/** What the browser makes of a file, null where it cannot: good enough until the service has answered. */
export function preview(file) {
  return createImageBitmap(file, { imageOrientation: "from-image" }).catch(() => null);
}

/** The picture of a file turned as the service says, 1 to 8 as EXIF has it; null where the browser cannot decode it. */
export async function upright(file, orientation) {
  const parts = withoutTurn(new Uint8Array(await file.arrayBuffer()));
  if (parts === null) return preview(file); // AVIF and HEIC, say: browsers turn them as the format says
  const stored = await createImageBitmap(new Blob(parts)).catch(() => null);
  return stored === null || orientation === 1 ? stored : turned(stored, orientation);
}

function turned(stored, orientation) {
  const { width, height } = stored;
  const swapped = orientation >= 5;
  const canvas = new OffscreenCanvas(swapped ? height : width, swapped ? width : height);
  const context = canvas.getContext("2d");
  // Where (x, y) of the stored pixels comes to lie: EXIF 2.32, 4.6.4, tag 274.
  context.setTransform(
    ...{
      2: [-1, 0, 0, 1, width, 0],
      3: [-1, 0, 0, -1, width, height],
      4: [1, 0, 0, -1, 0, height],
      5: [0, 1, 1, 0, 0, 0],
      6: [0, 1, -1, 0, height, 0],
      7: [0, -1, -1, 0, height, width],
      8: [0, -1, 1, 0, 0, width],
    }[orientation],
  );
  context.drawImage(stored, 0, 0);
  stored.close();
  return canvas.transferToImageBitmap();
}

/** The bytes of a JPEG, PNG or WebP without what may say how it is turned; null for other files. */
function withoutTurn(bytes) {
  const view = new DataView(bytes.buffer);
  if (startsWith(bytes, 0, "\xff\xd8")) return [jpegWithout(bytes, view)];
  if (startsWith(bytes, 0, "\x89PNG")) return pngWithout(bytes, view);
  if (startsWith(bytes, 0, "RIFF") && startsWith(bytes, 8, "WEBP")) return [webpWithout(bytes, view)];
  return null;
}

/** Its APP1 segments, of EXIF and XMP, become APP15, which nobody reads. */
function jpegWithout(bytes, view) {
  for (let at = 2; at + 4 <= bytes.length && bytes[at] === 0xff && bytes[at + 1] !== 0xda; ) {
    if (bytes[at + 1] === 0xff) {
      at += 1; // a byte that fills up
      continue;
    }
    if (bytes[at + 1] === 0xe1) bytes[at + 1] = 0xef;
    at += 2 + view.getUint16(at + 2);
  }
  return bytes;
}

function pngWithout(bytes, view) {
  const parts = [bytes.subarray(0, 8)];
  for (let at = 8; at + 12 <= bytes.length; ) {
    const end = at + 12 + view.getUint32(at);
    if (!startsWith(bytes, at + 4, "eXIf")) parts.push(bytes.subarray(at, end));
    at = end;
  }
  return parts;
}

/** Its EXIF and XMP chunks get a name that nobody reads. */
function webpWithout(bytes, view) {
  for (let at = 12; at + 8 <= bytes.length; ) {
    if (startsWith(bytes, at, "EXIF") || startsWith(bytes, at, "XMP ")) bytes.fill(0x78, at, at + 4);
    const size = view.getUint32(at + 4, true);
    at += 8 + size + (size % 2);
  }
  return bytes;
}

const startsWith = (bytes, at, text) => [...text].every((letter, index) => bytes[at + index] === letter.charCodeAt(0));
