/** The public names of lora-native. */
export { LoRAError } from './errors';
export type { ErrorCode } from './errors';
export { parameter, Parameter, tensor, Tensor } from './tensor';
export type { NestedNumbers, TensorData, TensorOptions, TensorValues } from './tensor';
export type { DType } from './dtype';
export { keep, noGrad, tidy } from './scope';
export { devices, memoryUsage, setThreads } from './device';
export type { Device, DeviceInfo, MemoryUsage } from './device';
