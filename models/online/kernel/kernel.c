/* The exact finish in one call: extend a history, and search SIDs best first, with a memory.
 *
 * Readable form of the same contract: models/online/best_first.py over
 * models/online/onnx_runtime.py. The caller owns all memory that it passes. A workspace grows and
 * is kept between calls.
 */
#include <stdlib.h>

#include "layers.h"
#include "history.h"
#include "memory.h"
#include "search.h"
