/** The objects of the add-on, as TypeScript tells them apart. */

declare const tensorTag: unique symbol;
declare const weightTag: unique symbol;
declare const tableTag: unique symbol;
declare const deviceTag: unique symbol;
declare const guardTag: unique symbol;
declare const fileTag: unique symbol;
declare const programTag: unique symbol;
declare const lockTag: unique symbol;

/** A reference to storage on a device: released explicitly, or by the garbage collector at the latest. */
export interface NativeTensor {
  readonly [tensorTag]: true;
}
/** A frozen matrix [out, in] in the layout of its backend. */
export interface NativeWeight {
  readonly [weightTag]: true;
}
/** The changes of several adapters: slots × sites. */
export interface NativeTable {
  readonly [tableTag]: true;
}
export interface NativeDevice {
  readonly [deviceTag]: true;
}
/** Remembers that an in-place update was skipped because an operand had failed. */
export interface NativeGuard {
  readonly [guardTag]: true;
}
/** A private, read-only mapping of a file. */
export interface NativeFile {
  readonly [fileTag]: true;
}
/** Ops that were recorded, and run as one command. */
export interface NativeProgram {
  readonly [programTag]: true;
}
/** A file that this process has locked. */
export interface NativeLock {
  readonly [lockTag]: true;
}
