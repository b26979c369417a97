import sys; sys.path.insert(0,'/work/main/tests/ingest')
from ingest_kit import *
import time
def test_it(database,tmp_path):
    log=prepared(database)
    src=Path('/work/shared/data/sentfin.csv').read_text().splitlines()
    ingest(log, Path('/work/shared/data/sentfin.csv'))
    big=tmp_path/'big.csv'
    with big.open('w') as f:
        f.write(src[0]+'\n')
        for k in range(20):
            for l in src[1:]: f.write(l+'\n')
    r=ingest(log,Path('/work/shared/data/sentfin.csv'),options=Options(again=True)); print(r.texts,r.texts/r.seconds,'/s sentfin')
    r=ingest(log,big); print(r.texts,r.texts/r.seconds,'/s big')
    import cProfile
    pr=cProfile.Profile(); pr.enable(); ingest(log,big,options=Options(again=True)); pr.disable()
    import pstats; pstats.Stats(pr).sort_stats('tottime').print_stats(14)
