"""Make releases: quantize items, train the online recommender and the reasoner, publish.

    python -m training all --data data/beauty --out releases/beauty

Reads the data folder, writes a work folder and a release. Imports `models` only.

    cli, recipe, run, stages     command line, TOML recipe, work folder, stages of a release
    recipe_choice, rounds        recipe by the size of the data, both rounds of a release
    children, run_display, eta   stages side by side, time left
    target_ranks, held_out_table, judging    ranks of test items, their table, the gate
    split, item_text, quantize   leave-one-out split, vectors of texts, items to SIDs
    learn_online, train_online   the online recommender, taught by a SASRec
    fit, averaging               the loop of both, and their averaged weights
    sid_loss, teacher            losses: the next SID, and what the teacher expects
    reasoner_stages, remote      the reasoner's stages, here or on a remote machine
    align, bootstrap, activation, enhance    the stages themselves, in this order
    specialise, unify_stage, thought_gain    one reasoner from specialists by category
    perception/                  tasks beyond the paper's, and a corpus for them
    material                     data of all stages, and their measure
    tasks, mixture, batching     texts of every task, their shares, token rows in batches
    learner, nano, language      the reasoner in training, one from scratch, the training loop
    train_sasrec, sasrec_folder  SASRec: the teacher, and a baseline for the benchmarks
    train_sid_lm                 the baseline of `bench finish`
"""
