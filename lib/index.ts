/** The public names of lora-native. */
export { LoRAError } from './errors';
export type { ErrorCode } from './errors';
export { parameter, Parameter, tensor, Tensor } from './tensor';
export type { NestedNumbers, TensorData, TensorOptions, TensorValues } from './tensor';
export type { DType } from './dtype';
export { keep, noGrad, tidy } from './scope';
export { devices, memoryUsage, setThreads, synchronize } from './device';
export type { Device, DeviceInfo, MemoryUsage } from './device';
export { CausalLM } from './models/causal_lm';
export type {
  AddAdapterOptions,
  ForwardOptions,
  ForwardOutput,
  FromPretrainedOptions,
  GenerateOptions,
  LoadAdapterOptions,
} from './models/options';
export { Adapter } from './models/adapter';
export type { TokenRows } from './models/batch';
export type { ChatMessage, ChatTemplateOptions } from './models/chat';
export type { ModelDType } from './models/weights';
export type { ModelConfig, ModelType } from './models/config';
export type { GeneratedToken, GenerationResult, Prompt, SamplingOptions } from './models/generate';
export type { RopeConfig, RopeScaling } from './models/rope';
export { Tokenizer } from './models/tokenizer';
export type { ApplyChatTemplateOptions, DecodeOptions, EncodeOptions } from './models/tokenizer';
export { LoRALinear } from './nn/lora_linear';
export type { LoRALinearOptions } from './nn/lora_linear';
export { AdamW } from './optim/adamw';
export type { AdamWOptions, ParameterGroup } from './optim/adamw';
export { clipGradNorm } from './optim/clip';
export type { ReduceOptions } from './ops/reduce';
export type { CrossEntropyOptions, Labels } from './ops/cross_entropy';
export { constantSchedule, cosineSchedule, linearSchedule } from './optim/schedules';
export type { Schedule, ScheduleOptions } from './optim/schedules';
export { loadCheckpoint, saveCheckpoint } from './checkpoint';
export type { StateDict, Stateful, StateValue } from './checkpoint';
export { Trainer } from './train/trainer';
export type { ScheduleName, TrainerOptions } from './train/options';
export type {
  CheckpointEvent,
  EndEvent,
  EvalEvent,
  RunOptions,
  StartEvent,
  StepEvent,
  TrainerEvent,
  TrainerResult,
} from './train/events';
export type { EvaluateOptions, Evaluation } from './train/evaluate';
export { batches, type Batch, type BatchesOptions } from './data/batches';
export { loadDataset, type Dataset, type LoadDatasetOptions, type TextEncoder } from './data/dataset';
export type { DataSource, Example } from './data/example';
export type { RunHandle } from './handle';
export { openSafetensors, writeSafetensors } from './formats/safetensors';
export type { SafetensorsFile, SafetensorsTensor } from './formats/safetensors';
export type { SafetensorsDType } from './formats/dtypes';
export { readAdapter, writeAdapter } from './peft/adapter_files';
export type { AdapterFiles } from './peft/adapter_files';
export type { LoRAConfig, LoRAConfigInput } from './peft/config';
