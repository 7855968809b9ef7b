#!/bin/sh
# The commands behind the results in this folder; seed 0, two processes of one thread each. A stopped run goes on where
# it ended. Run it with hiermm installed; the trials' own files go to FOLDER/trials and are not kept in the repository.
set -e
cd "$(dirname "$0")"
export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1

SGD=rnn-sgd-1,rnn-sgd-2,rnn-sgd-3,rnn-sgd-4,rnn-sgd-6
ADAM=rnn-adam-1,rnn-adam-2,rnn-adam-3,rnn-adam-4,rnn-adam-6
ORTHOGONAL=$(echo $SGD,$ADAM | sed 's/,/-orthogonal,/g')-orthogonal
LEVELS=sticky-2-slower,sticky-3-slower,periodic-2-slower,periodic-3-slower,sticky-2-faster,sticky-3-faster,periodic-2-faster,periodic-3-faster
PATIENT=$(echo iohmm,$LEVELS | sed 's/,/-patient,/g')-patient
LATCHED=$(echo iohmm,$LEVELS | sed 's/,/-latched,/g')-latched
SOME_LATCHED=iohmm-latched,sticky-2-slower-latched,sticky-3-slower-latched,periodic-2-slower-latched,periodic-3-slower-latched,periodic-2-faster-latched
NOISY=iohmm-latched,sticky-2-slower-latched,sticky-2-faster-latched,periodic-2-slower-latched,periodic-2-faster-latched,periodic-3-slower-latched,periodic-3-faster-latched
MORE=iohmm-patient,sticky-2-faster-patient,periodic-2-faster-patient,periodic-3-faster-patient

# The tables of a folder hold all trials named after it; where two commands share a folder, their trials were joined.
hiermm experiment two-sequence --out two-sequence --lengths 10,20,40,100,300:5 \
    --models "$SGD,$ADAM,$ORTHOGONAL,guessing,iohmm,$LEVELS,$LATCHED"
hiermm experiment two-sequence --out two-sequence-dwell --lengths 10,20,40,100,300:5 \
    --models iohmm,iohmm-dwell-2,iohmm-dwell-8,iohmm-dwell-32,iohmm-dwell-128,iohmm-latched
hiermm experiment two-sequence --out two-sequence-patient --lengths 10:10,20:5,40:5 --models "$PATIENT"
hiermm experiment two-sequence --out two-sequence-patient --lengths 20:20 --models "$MORE"
hiermm experiment two-sequence --out two-sequence-remedies --lengths 10:10,20:5,40:5 \
    --models iohmm-restarts,iohmm-tempered,sticky-2-annealed,sticky-2-grown
hiermm experiment two-sequence --out two-sequence-long --lengths 1000:3 \
    --models "$SGD,$ADAM,$ORTHOGONAL,guessing,iohmm,sticky-2-slower,periodic-2-slower,$SOME_LATCHED"
hiermm experiment two-sequence --out two-sequence-long --lengths 3000:2 \
    --models "$SGD,$ADAM,rnn-adam-1-orthogonal,rnn-adam-4-orthogonal,rnn-adam-6-orthogonal,guessing,iohmm-latched,periodic-2-slower-latched"
hiermm experiment two-sequence --out two-sequence-noise --lengths 40:10,100:10 --noise 0.5 \
    --models "$NOISY"
hiermm experiment two-sequence --out two-sequence-noise --lengths 100:10 --noise 0.5 \
    --models rnn-adam-1,rnn-adam-6,rnn-adam-1-orthogonal,rnn-adam-4-orthogonal,rnn-adam-6-orthogonal,guessing,iohmm
hiermm experiment network --out network --lengths 10:5,20:5,40:5,100:3 \
    --models "$SGD,$ADAM,rnn-adam-1-orthogonal,rnn-adam-4-orthogonal,rnn-adam-6-orthogonal,guessing,iohmm,sticky-2-slower,periodic-2-slower,iohmm-latched"
hiermm experiment tomita --out tomita
