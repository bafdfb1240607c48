/** What a caller is told while a model or an adapter is found, downloaded and loaded. */

/** Once, before the first byte of a download. */
export interface RepositoryProgress {
  /** Tells it from the others. */
  type: 'repository';
  /** 'org/name'. */
  repository: string;
  /** What the caller wrote: without `hf:` where no folder of that name is there. */
  source: string;
  /** The branch, tag or commit that was asked for. */
  revision: string;
  /** The commit that it stands for. */
  commit: string;
  /** The license of the model card, such as 'apache-2.0'; null where it has none. */
  license: string | null;
  /** Whether its authors ask you to accept terms first, on the page `url`. */
  gated: boolean;
  /** The page of the repository. */
  url: string;
  /** The folder of the cache that the files go to. */
  folder: string;
  /** Bytes that are done. */
  loaded: number;
  /** Bytes in all, as far as they are known. */
  total: number;
}

/** Several times a second while files are downloaded, and at the end of each. */
export interface DownloadProgress {
  /** Tells it from the others. */
  type: 'download';
  /** The file that the last bytes are of. */
  file: string;
  /** Bytes that are done. */
  loaded: number;
  /** Bytes in all, as far as they are known. */
  total: number;
}

/** What makes a download wait, or another thing come of it than was asked for. */
export interface NoticeProgress {
  /** Tells it from the others. */
  type: 'notice';
  /** 'retry': a request failed and is made again; 'lock': another process downloads the file; 'cached': the hub is out of reach, and the cache answers. */
  reason: 'retry' | 'lock' | 'cached';
  /** A sentence for people. */
  message: string;
  /** Bytes that are done. */
  loaded: number;
  /** Bytes in all, as far as they are known. */
  total: number;
}

/** Once, before a push reads and sends files. */
export interface PushTargetProgress {
  /** Tells it from the others. */
  type: 'target';
  /** 'org/name'. */
  repository: string;
  /** The branch that gets the commit. */
  revision: string;
  /** Whether this push has created the repository. */
  created: boolean;
  /** The page of the repository. */
  url: string;
  /** Bytes that are done. */
  loaded: number;
  /** Bytes of all files. */
  total: number;
}

/** Several times a second while the files of a push are read for their hashes, by which the hub knows what it has. */
export interface HashProgress {
  /** Tells it from the others. */
  type: 'hash';
  /** The file that the last bytes are of. */
  file: string;
  /** Bytes that are done. */
  loaded: number;
  /** Bytes of all files. */
  total: number;
}

/** Several times a second while large files are sent. What the hub has already counts as done. */
export interface UploadProgress {
  /** Tells it from the others. */
  type: 'upload';
  /** The file that the last bytes are of. */
  file: string;
  /** Bytes that are done; fewer than before where a part was cut and is sent again. */
  loaded: number;
  /** Bytes of all large files. */
  total: number;
}

/** What makes a push wait, or another thing come of it than was asked for. */
export interface PushNoticeProgress {
  /** Tells it from the others. */
  type: 'notice';
  /** 'retry': a request failed and is made again; 'card': the model card of the repository was changed by somebody, and stays. */
  reason: 'retry' | 'card';
  /** A sentence for people. */
  message: string;
  /** Bytes that are done. */
  loaded: number;
  /** Bytes in all, as far as they are known. */
  total: number;
}

/** What `onProgress` of a push gets. */
export type PushProgress = PushTargetProgress | HashProgress | UploadProgress | PushNoticeProgress;

/** After every tensor. */
export interface WeightsProgress {
  /** Tells it from the others. */
  type: 'weights';
  /** Bytes of weights that are loaded now; of quantizeModel(), which reads a matrix twice, that are done. */
  loaded: number;
  /** Bytes of all weights; `loaded` reaches it with the last call. */
  total: number;
}

/** What `onProgress` gets: bytes, and what they are of. */
export type LoadProgress = RepositoryProgress | DownloadProgress | NoticeProgress | WeightsProgress;
