/** The public names of lora-native: every value, and the types that a first program names. serve, compare and train have an entry each for the rest of theirs. */
import './native/bundled'; // before all that needs Node's modules
export { LoRAError, type ErrorCode } from './errors';
import './ops'; // gives tensors their methods
export { parameter, tensor, type TensorData, type TensorOptions } from './tensor/create';
export { Parameter, Tensor } from './tensor/tensor';
export type {
  CrossEntropyOptions,
  DimOptions,
  Labels,
  MaxOptions,
  NestedNumbers,
  ReduceOptions,
  TensorValues,
} from './tensor/tensor';
export type { DType } from './native/dtype';
export { keep, noGrad, tidy } from './tensor/scope';
export { devices, memoryUsage, setThreads, synchronize } from './native/device';
export type { DeviceInfo, MemoryUsage } from './native/binding';
export type { Device } from './native/device';
export { CausalLM } from './models/causal_lm';
export type { ClassifyHead, ClassifyHeadInput, HeadInput, ModelHead } from './peft/head';
export type { ProblemType } from './options/problem_types';
export type { Classification, ClassifyOptions } from './models/running/classify';
export type {
  ForwardOptions,
  ForwardOutput,
  FromPretrainedOptions,
  GenerateOptions,
  LoadAdapterOptions,
} from './models/core/options';
export { answerChat, type AnswerChatOptions, type ChatAnswer, type ChatPiece } from './chat/answer_chat';
export type { ToolCall } from './text/answers/tool_calls';
export { quantizeModel, type QuantizeModelOptions } from './models/quantize_model';
export { convertAdapter, type AdapterFormat, type ConvertAdapterOptions } from './convert/convert_adapter';
export { convertModel, type ConvertModelOptions, type GgufFormat } from './convert/convert_model';
export type { WrittenModelfile } from './convert/modelfile';
export type { SavedModel } from './models/save';
export type { TrainAllOptions } from './models/core/trained_base';
export type { QuantizeOptions } from './models/quantized/quantize_options';
export type { PushModelOptions } from './models/push';
export type { PushOptions, PushResult } from './hub/push_options';
export type { SourceOptions } from './hub/source';
export type {
  DownloadProgress,
  HashProgress,
  LoadProgress,
  NoticeProgress,
  PushNoticeProgress,
  PushProgress,
  PushTargetProgress,
  RepositoryProgress,
  UploadProgress,
  WeightsProgress,
} from './hub/progress';
export { Adapter } from './peft/adapter';
export type { AddAdapterOptions } from './peft/adapter_set';
export type { CombineAdaptersOptions, CombineMethod } from './peft/combine';
export type { TokenRows } from './models/inputs/batch';
export type { ChatTemplateOptions, ChatVariables } from './text/chat';
export type { ChatMessage } from './text/messages';
export type { ModelDType } from './models/core/weights';
export type { AttentionShape, LayerShape, ModelConfig, StateShape } from './models/config/model_config';
export type { ModelType } from './models/families';
export type { SamplingOptions } from './engine/sampling';
export type { JsonSchema } from './grammar/json_schema';
export type { GeneratedText, GenerationResult, Prompt } from './models/running/generate';
export type { EngineOptions, EngineStats } from './engine/engine';
export type { GeneratedToken, TokenLogprob, TokenLogprobs } from './engine/delivery';
export type { RopeConfig, RopeScaling } from './models/config/rope';
export { Tokenizer } from './text/tokenizer';
export type {
  ApplyChatTemplateOptions,
  DecodeOptions,
  EncodeAsyncOptions,
  EncodeOptions,
  TurnsAsyncOptions,
  TurnsOptions,
} from './text/tokenizer_options';
export type { Turns } from './text/turns';
export { LoRALinear, type LoadLoRALinearOptions, type LoRALinearOptions } from './layers/lora_linear';
export { Module, type Layer, type LayerOptions } from './layers/module';
export { Linear, type LinearOptions } from './layers/linear';
export { Embedding, type EmbeddingOptions } from './layers/embedding';
export { LayerNorm, type LayerNormOptions } from './layers/layer_norm';
export { Dropout, type DropoutOptions } from './layers/dropout';
export { Sequential, type SequentialStep } from './layers/sequential';
export { concat, stack } from './ops/slices';
export { where } from './ops/where';
export { AdamW, type AdamWOptions, type ParameterGroup } from './optim/adamw';
export { AdamW8bit } from './optim/adamw8bit';
export { Lion, type LionOptions, type LionParameterGroup } from './optim/lion';
export { SGD, type SGDOptions, type SGDParameterGroup } from './optim/sgd';
export type { OptimizerName } from './options/table';
export type { Optimizer, OptimizerGroup, OptimizerOptions } from './optim/optimizer';
export { clipGradNorm } from './optim/clip';
export { constantSchedule, cosineSchedule, linearSchedule, wsdSchedule } from './optim/schedules';
export type { Schedule, ScheduleOptions, WsdScheduleOptions } from './optim/schedules';
export { loadCheckpoint, saveCheckpoint } from './formats/checkpoint';
export type { LoadCheckpointOptions, StateDict, Stateful, StateValue } from './formats/checkpoint';
export { mpi } from './distributed/mpi';
export type { ProcessGroup } from './distributed/process_group';
export { Trainer } from './train/trainer';
export type { TrainerOptions } from './train/options';
export { preferenceLoss } from './train/objectives/preference_loss';
export type { PreferenceLoss, PreferenceLossOptions } from './train/objectives/preference_loss';
export type { ContrastiveOptions, LossType, PreferenceOptions } from './train/objectives/settings';
export type { ObjectiveName } from './options/objectives';
export type { LabeledRow, PreferenceRow } from './data/preference_rows';
export { compareMethods, sweep } from './compare/compare';
export type { EvaluateOptions, Evaluation } from './models/running/evaluate';
export type { EmbedInput, EmbedOptions } from './models/embedding/embed';
export type { RankedDocument, RankOptions } from './models/embedding/rank';
export type { HiddenStates, HiddenStatesOptions } from './models/running/hidden_states';
export type { CompletionLogProbs, LogProbs, LogProbsOptions, TextOrIds } from './models/running/log_probs';
export type {
  AnswerSample,
  ChoiceSample,
  EvaluateTaskOptions,
  TaskData,
  TaskEvaluation,
  TaskProgress,
  TaskResult,
  TaskScores,
} from './tasks/options';
export type { ChoiceRow } from './tasks/choices';
export { batches, type Batch, type BatchesOptions } from './data/batches';
export { loadDataset, type Dataset, type LoadDatasetOptions } from './data/dataset';
export type { LoadPreferencesOptions, PreferenceDataset } from './data/dataset';
export type { DataSplit } from './data/folders';
export { mixDatasets, type Mix, type MixDatasetsOptions, type MixedSource } from './data/mix';
export { FileDataset } from './data/file_dataset';
export type { DatasetCounts } from './data/example';
export type { EncodeTextOptions, EncodeTurnsOptions, TextEncoder } from './data/rows';
export type { DataSource, Example } from './data/example';
export type { RunHandle } from './handle';
export { openSafetensors, writeSafetensors } from './formats/safetensors';
export type { OpenSafetensorsOptions, SafetensorsFile, SafetensorsTensor } from './formats/safetensors';
export type { SafetensorsDType } from './formats/dtypes';
export type { ReadLimits } from './formats/limits';
export { estimateMemory, type MemoryEstimate, type MemoryOptions } from './models/memory';
export {
  readAdapter,
  writeAdapter,
  type AdapterFiles,
  type AdapterHead,
  type ReadAdapterOptions,
} from './peft/adapter_files';
export type { BottleneckConfig, BottleneckConfigInput, BottleneckPlacement } from './peft/bottleneck';
export type { BottleneckActivation } from './linear/bottleneck';
export type { LoRAConfig, LoRAConfigInput } from './peft/config';
export type { IA3Config, IA3ConfigInput } from './peft/ia3';
export type { PromptConfig, PromptConfigInput, PromptTuningInit } from './peft/prompt';
export type { AdapterConfig, AdapterConfigInput, AdapterConfigs, AdapterMethodName } from './peft/methods';
export { createOpenAIFetchHandler } from './serve/fetch_handler';
export { createOpenAIHandler } from './serve/handler';
export { groupAdvantages, type GroupAdvantagesOptions, type Reward } from './train/objectives/advantages';
export type {
  Rewarded,
  RewardFunction,
  RewardOptions,
  Rollout,
  RolloutGeneration,
  RolloutPrompt,
} from './train/objectives/grpo_settings';
export type { PromptRow } from './data/prompt_rows';
export type { ClassLabel, ClassRow } from './data/class_rows';
export type { Confusion } from './tasks/class_scores';
export type { ContrastiveRow, RankRow } from './data/retrieval_rows';
export {
  evaluateRetrieval,
  type EvaluateRetrievalOptions,
  type RetrievalEvaluation,
  type SimilarityRow,
} from './train/objectives/evaluate_retrieval';
export {
  policyLoss,
  type PolicyLoss,
  type PolicyLossOptions,
  type PolicySettings,
} from './train/objectives/policy_loss';
