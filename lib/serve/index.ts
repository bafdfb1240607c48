/** The public names of lora-native/serve. */
export { createOpenAIFetchHandler } from './fetch_handler';
export type { FetchRequest, FetchResponse, OpenAIFetchHandler } from './fetch_handler';
export { createOpenAIHandler, type HttpRequest, type HttpResponse, type OpenAIHandler } from './handler';
export type { CorsOptions } from './cors';
export type { OpenAIHandlerOptions, ServeLogger } from './options';
export type { ApiKey } from './clients';
