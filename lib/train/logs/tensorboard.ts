/**
 * Event files that TensorBoard reads. Records are those of TFRecord (tensorflow/core/lib/io/record_writer.h): the length of the data as
 * uint64, its masked CRC, the data, their masked CRC. The data are messages `Event` (tensorflow/core/util/event.proto) with a `Summary`
 * (tensorflow/core/framework/summary.proto); hyperparameters are those of tensorboard/plugins/hparams/plugin_data.proto.
 */

/** CRC-32C (Castagnoli, reflected polynomial 0x82f63b78; RFC 3720, appendix B.4), a byte at a time. */
const table = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte;
  for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1;
  return crc;
});

/** The CRC-32C of some bytes. */
export function crc32c(bytes: Uint8Array): number {
  let crc = 0xffffffff;
  for (const byte of bytes) crc = table[(crc ^ byte) & 0xff]! ^ (crc >>> 8);
  return (crc ^ 0xffffffff) >>> 0;
}

/** A CRC as records hold it, rotated and shifted: a CRC over bytes that hold CRCs would be a weak one. */
const masked = (bytes: Uint8Array): number => {
  const crc = crc32c(bytes);
  return (((crc >>> 15) | (crc << 17)) + 0xa282ead8) >>> 0;
};

/** A record of TFRecord. */
export function tfRecord(data: Uint8Array): Buffer {
  const head = Buffer.alloc(12);
  head.writeBigUInt64LE(BigInt(data.length), 0);
  head.writeUInt32LE(masked(head.subarray(0, 8)), 8);
  const foot = Buffer.alloc(4);
  foot.writeUInt32LE(masked(data), 0);
  return Buffer.concat([head, data, foot]);
}

// ---- Protocol Buffers (https://protobuf.dev/programming-guides/encoding)

function varint(value: number): Buffer {
  const bytes: number[] = [];
  let rest = BigInt(value);
  for (; rest > 0x7fn; rest >>= 7n) bytes.push(Number(rest & 0x7fn) | 0x80);
  return Buffer.from([...bytes, Number(rest)]);
}

const key = (field: number, wire: number): Buffer => varint(field * 8 + wire);
const whole = (field: number, value: number): Buffer => Buffer.concat([key(field, 0), varint(value)]);
const bytesOf = (field: number, ...parts: readonly Uint8Array[]): Buffer => {
  const content = Buffer.concat(parts);
  return Buffer.concat([key(field, 2), varint(content.length), content]);
};
const text = (field: number, value: string): Buffer => bytesOf(field, Buffer.from(value));
function double(field: number, value: number): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeDoubleLE(value);
  return Buffer.concat([key(field, 1), bytes]);
}
function float(field: number, value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeFloatLE(value);
  return Buffer.concat([key(field, 5), bytes]);
}

// ---- events

/** What an event is of: seconds since 1970, and the step. */
export interface EventTime {
  readonly seconds: number;
  readonly step: number;
}

const event = ({ seconds, step }: EventTime, ...content: readonly Buffer[]): Buffer =>
  tfRecord(Buffer.concat([double(1, seconds), ...(step === 0 ? [] : [whole(2, step)]), ...content]));

/** The first event of a file. */
export const versionEvent = (seconds: number): Buffer =>
  event({ seconds, step: 0 }, text(3, 'brain.Event:2'));

/** Numbers by their tags: Summary { value { tag, simple_value } }. */
export const scalarsEvent = (at: EventTime, scalars: Readonly<Record<string, number>>): Buffer =>
  event(
    at,
    bytesOf(5, ...Object.entries(scalars).map(([tag, value]) => bytesOf(1, text(1, tag), float(2, value)))),
  );

/** A value of a plugin: { tag, tensor, metadata { plugin_data { plugin_name, content } } }. */
const pluginValue = (
  tag: string,
  plugin: string,
  content: Buffer,
  tensor: Buffer,
  dataClass: Buffer,
): Buffer =>
  bytesOf(
    5,
    bytesOf(
      1,
      text(1, tag),
      bytesOf(8, tensor),
      bytesOf(
        9,
        bytesOf(1, text(1, plugin), ...(content.length > 0 ? [bytesOf(2, content)] : [])),
        dataClass,
      ),
    ),
  );

const none = Buffer.alloc(0);
const stringType = 7;
const floatType = 1;
/** TensorShapeProto { dim { size: 1 } }. */
const shapeOfOne = bytesOf(2, bytesOf(2, whole(1, 1)));

/** A text in Markdown. */
export const textEvent = (at: EventTime, tag: string, markdown: string): Buffer =>
  event(
    at,
    pluginValue(
      tag,
      'text',
      none,
      Buffer.concat([whole(1, stringType), shapeOfOne, text(8, markdown)]),
      whole(4, 2), // DATA_CLASS_TENSOR
    ),
  );

/** The tensor of values that have none, as the plugin writes it: one 0. */
const nullTensor = Buffer.concat([whole(1, floatType), shapeOfOne, bytesOf(5, Buffer.alloc(4))]);

const hparams = (at: EventTime, name: string, data: Buffer): Buffer =>
  event(at, pluginValue(`_hparams_/${name}`, 'hparams', data, nullTensor, none));

/** google.protobuf.Value. */
function value(of: string | number | boolean): Buffer {
  if (typeof of === 'number') return double(2, of);
  return typeof of === 'string' ? text(3, of) : whole(4, Number(of));
}

/** The hyperparameters of a run that begins. */
export const hparamsEvent = (
  at: EventTime,
  values: Readonly<Record<string, string | number | boolean>>,
): Buffer =>
  hparams(
    at,
    'session_start_info',
    bytesOf(
      3,
      ...Object.entries(values).map(([name, of]) => bytesOf(1, text(1, name), bytesOf(2, value(of)))),
      double(5, at.seconds),
    ),
  );

/** How the run ended. */
export const hparamsEndEvent = (at: EventTime, status: 'success' | 'failure'): Buffer =>
  hparams(at, 'session_end_info', bytesOf(4, whole(1, status === 'success' ? 1 : 2), double(2, at.seconds)));
