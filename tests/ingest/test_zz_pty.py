import pty, os, subprocess, sys
from ingest_kit import *
def test_it(database,tmp_path):
    log=prepared(database)
    p=lines_file(tmp_path/'a.txt', range(4000))
    m,s=pty.openpty()
    pr=subprocess.Popen([sys.executable,'-c',COMMAND,str(p),'--rate','2000'],env=os.environ|{"TICKERLOOP_DATABASE":log,"COLUMNS":"100"},stdout=s,stderr=s)
    os.close(s)
    out=b''
    try:
        while d:=os.read(m,10000): out+=d
    except OSError: pass
    print(out.decode()[-1500:])
    pr.wait(); print(pr.returncode)
    print(start(log,p,'--json').communicate())
    print(start(log,tmp_path/'nope').communicate())
    (tmp_path/'x.csv').write_text('no,decision\n1,x\n')
    print(start(log,tmp_path/'x.csv').communicate())
    print(start(log,'-').communicate())
