/* The exact finish in one call: a history taken further, and the best-first search over SIDs.
 *
 * The same contract as models/best_first.py over models/runtime.py, which are the readable form.
 * All memory that a caller passes is the caller's; a workspace grows and is kept between calls.
 */
#include <stdlib.h>

#include "layers.h"
#include "history.h"
#include "search.h"
